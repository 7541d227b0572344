"""Which device and number format this process computes in."""

import torch

from chatterbox_engine.config import Precision
from chatterbox_engine.errors import InvalidRequest


def pick_device(wanted: str = "auto") -> tuple[torch.device, str]:
    """The device, and why in words. Raises InvalidRequest where the one asked for is not there."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"auto: {torch.cuda.get_device_name()} is here"
        return torch.device("cpu"), "auto: no CUDA device is here"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise InvalidRequest(f"There is no device {wanted!r}: use auto, cpu, cuda or cuda:N.", "device") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"The engine does not run on {wanted!r}: use auto, cpu, cuda or cuda:N.", "device")
    there = torch.cuda.device_count()
    if device.type == "cuda" and not 0 <= (device.index or 0) < there:
        raise InvalidRequest(
            f"device {wanted} was asked for, but torch sees {there or 'no'} CUDA devices. Use auto or cpu.", "device"
        )
    return device, "as configured"


def t3_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """auto: bf16 on a GPU, where T3 is bound by reading weights; fp32 on a CPU."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def s3gen_dtype(precision: Precision) -> torch.dtype:
    """auto: fp32."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
