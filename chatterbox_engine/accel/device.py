"""Which device and number format this process computes in."""

import logging

import torch

from chatterbox_engine.accel import native
from chatterbox_engine.accel.cpu_linear import packs_bf16
from chatterbox_engine.config import CpuKernels, Precision
from chatterbox_engine.errors import InvalidRequest

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def multiplies_bf16(device: torch.device) -> bool:
    """Elsewhere bf16 is multiplied by way of fp32, number by number."""
    return device.type == "cuda" or packs_bf16()


def t3_dtype(precision: Precision, device: torch.device, kernels: CpuKernels = "auto") -> torch.dtype:
    """auto: bf16 where the device multiplies it or the engine's own kernels read it, since T3 is bound by reading
    weights; else fp32."""
    if precision == "auto":
        fast = multiplies_bf16(device) or (kernels == "auto" and native.kernels() is not None)
        return torch.bfloat16 if fast else torch.float32
    return _dtype(precision, device)


def s3gen_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """auto: bf16 where a matrix unit multiplies it (GPUs since Ampere, CPUs with AMX), fp32 elsewhere. Raises
    InvalidRequest for fp16, in which the flow overflows."""
    if precision == "fp16":
        raise InvalidRequest("S3Gen overflows in fp16. Use bf16, tf32 or fp32.", "s3gen.precision")
    if precision == "auto":
        return torch.bfloat16 if _has_bf16_unit(device) else torch.float32
    return _dtype(precision, device)


def _has_bf16_unit(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported()


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """tf32 is fp32 whose products a GPU rounds; PyTorch has it per process, so it holds for both stages there."""
    if precision == "tf32":
        if device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        else:
            logger.warning("precision: tf32 is a GPU's; %s computes in fp32.", device)
    return _DTYPES[precision]


def set_convolutions(precision: Precision) -> None:
    """Let a GPU's convolutions of fp32 numbers, HiFT's above all, be what they are called: PyTorch rounds what they
    multiply to tf32 unless told otherwise, per process."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
