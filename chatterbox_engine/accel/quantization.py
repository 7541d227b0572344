"""Weights in fewer bits: own packed kernels on a CPU, torchao on a GPU, bitsandbytes for NF4."""

import importlib.util
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.cpu_linear import Int4Linear, Int8Linear, PackedLinear, packs_bf16, packs_int8
from chatterbox_engine.accel.native_linear import NativeLinear
from chatterbox_engine.config import CpuKernels, Quantization

logger = logging.getLogger(__name__)

_FP8_CAPABILITY = (8, 9)


def applicable(wanted: Quantization, device: torch.device) -> Quantization:
    """The form that this device can compute in; one that it cannot is said once, and the weights stay whole."""
    missing = {"none": None, "int8": None, "int8_dynamic": None, "int4": None, "fp8": _no_fp8, "nf4": _no_nf4}[wanted]
    reason = missing(device) if missing else None
    if reason is not None:
        logger.warning("quantization: %s is not to be had here: %s. The weights stay whole.", wanted, reason)
        return "none"
    return wanted


def quantise(
    module: nn.Module, wanted: Quantization, device: torch.device, kernels: CpuKernels, *, head: str, whole: str
) -> None:
    """Move the module to the device, its linear layers in the form wanted, one by one, so that no second copy is held.

    `head` names the layer whose results are sampled from: 4-bit and 8-bit float forms leave it in 8-bit integers.
    `whole` names a part that stays as it is.
    """
    for name, child in list(module.named_modules()):
        if not isinstance(child, nn.Linear) or name.startswith(whole):
            continue
        parent, _, own = name.rpartition(".")
        form: Quantization = "int8" if name == head and wanted in ("int4", "fp8", "nf4") else wanted
        made = _on_cpu(child, form, kernels) if device.type == "cpu" else _on_cuda(child, form, device)
        setattr(module.get_submodule(parent), own, made)
    module.to(device)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's linear layers as they are stored: what a step reads of them."""
    total = 0
    for child in module.modules():
        if isinstance(child, NativeLinear | PackedLinear | Int8Linear | Int4Linear):
            total += child.weight_bytes
        elif isinstance(child, nn.Linear):
            total += sum(_tensor_bytes(parameter) for parameter in child.parameters(recurse=False))
    return total


def _tensor_bytes(tensor: Tensor) -> int:
    """Of a plain tensor, of torchao's, which hold several, or of bitsandbytes', which hold their scales apart."""
    names = [*getattr(tensor, "tensor_data_names", ()), *getattr(tensor, "optional_tensor_data_names", ())]
    if names:
        return sum(part.nbytes for name in names if isinstance(part := getattr(tensor, name, None), Tensor))
    state = getattr(tensor, "quant_state", None)
    return tensor.nbytes + (state.absmax.nbytes if state is not None else 0)


_DIGITS: dict[Quantization, int] = {"none": 0, "int8_dynamic": 1, "int8": 2}
"""8-bit digits of an activation, by the form of the weights; 0: activations and weights in bf16."""


def _on_cpu(linear: nn.Linear, form: Quantization, kernels: CpuKernels) -> nn.Module:
    bf16 = linear.weight.dtype == torch.bfloat16
    if (
        kernels == "auto"
        and (bf16 or form != "none")
        and form in _DIGITS
        and not linear.in_features % 64
        and native.kernels() is not None
    ):
        return NativeLinear(linear.weight, linear.bias, _DIGITS[form])
    if form in ("int8", "int8_dynamic") and packs_int8():
        return Int8Linear(linear, _DIGITS[form])
    if form == "int4":
        return Int4Linear(linear)
    if form == "nf4":
        return _nf4(linear, torch.device("cpu"))
    if form == "none":
        return PackedLinear(linear) if bf16 and packs_bf16() and kernels != "plain" else linear
    return _by_torchao(linear, form)


def _on_cuda(linear: nn.Linear, form: Quantization, device: torch.device) -> nn.Module:
    linear.to(device)
    if form == "none":
        return linear
    return _nf4(linear, device) if form == "nf4" else _by_torchao(linear, form)


def _by_torchao(linear: nn.Linear, form: Quantization) -> nn.Module:
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    configs: dict[str, Callable[[], object]] = {
        "int8": Int8WeightOnlyConfig,
        "int8_dynamic": Int8DynamicActivationInt8WeightConfig,
        "int4": lambda: Int4WeightOnlyConfig(group_size=64, int4_packing_format="tile_packed_to_4d"),
        "fp8": lambda: Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    }
    holder = nn.Sequential(linear)
    quantize_(holder, configs[form]())
    return holder[0]


def _nf4(linear: nn.Linear, device: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit

    biased = linear.bias is not None
    made = Linear4bit(
        linear.in_features, linear.out_features, bias=biased, compute_dtype=linear.weight.dtype, quant_type="nf4"
    )
    made.load_state_dict(linear.state_dict())
    return made.to(device)


def _no_fp8(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        return "it needs a GPU of compute capability 8.9 or more"
    return None


def _no_nf4(device: torch.device) -> str | None:
    if importlib.util.find_spec("bitsandbytes") is None:
        return "it needs the package bitsandbytes (uv sync --extra nf4)"
    return None
