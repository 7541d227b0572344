"""Linear layers whose weights lie as a CPU reads them fastest: packed for oneDNN, in bf16, 8 or 4 bits.

A decode step multiplies a few rows by every weight, so its time is that of reading the weights. oneDNN's operators are
those that torch.compile's CPU backend lowers to; they are called here without compiling, and torch is pinned.
"""

import torch
from torch import Tensor, nn

_ROWS = 32
"""Rows for which oneDNN lays weights out: measured best, or as good, from 2 rows to 256."""
_GROUP = 64
"""Inputs that share a scale in 4 bits."""
_DIGIT = 128
"""Base of the two digits of a 16-bit activation."""
_ZERO = 128
"""Of unsigned activations: without AMX, oneDNN multiplies signed ones thousands of times more slowly."""
_LARGEST = 127


def packs_bf16() -> bool:
    """oneDNN multiplies bf16 on this processor natively."""
    cpu = torch.cpu
    native = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return bool(torch.backends.mkldnn.is_available() and native)


def packs_int8() -> bool:
    """oneDNN multiplies int8 on this processor exactly: without VNNI, sums of pairs saturate at 16 bits."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())


class PackedLinear(nn.Module):
    """A linear layer in bf16: (..., in) -> (..., out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight_bytes = linear.weight.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


class Int8Linear(nn.Module):
    """Weights in 8 bits, symmetric, a scale for each output; products of integers, summed exactly.

    Each row of activations has a scale of its own, so a row's result does not depend on the rows beside it. In 16 bits
    (`digits` 2) it is cut into two 8-bit digits, which are two rows of the product: the rounding left is that of the
    weights. In 8 bits (`digits` 1) it is rounded itself.
    """

    def __init__(self, linear: nn.Linear, digits: int) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / _LARGEST
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.weight_bytes = rounded.nbytes + scale.nbytes
        self.out = len(weight)
        self._digits = digits
        self._scale = scale
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = _LARGEST if self._digits == 1 else _LARGEST * _DIGIT
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(largest)
        rows = (rows / scale).round_()
        if self._digits == 2:
            high = (rows / _DIGIT).round_()
            rows = torch.cat((high, torch.sub(rows, high, alpha=_DIGIT)))
        product = torch.ops.onednn.qlinear_pointwise(
            rows.add_(_ZERO).to(torch.uint8), 1.0, _ZERO, self._packed, self._scale, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if self._digits == 2:
            high, low = product.chunk(2)
            product = torch.add(low, high, alpha=_DIGIT)
        product = product.mul_(scale)
        if self._bias is not None:
            product += self._bias
        return product.to(x.dtype).view(*x.shape[:-1], self.out)


class Int4Linear(nn.Module):
    """Weights in 4 bits, a scale and a zero for each group of 64 inputs of an output; activations in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        out, width = linear.weight.shape
        groups = linear.weight.detach().float().view(out, -1, _GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12)
        rounded = ((groups - low) / scale).round().clamp(0, 15).to(torch.int32).view(out, width)
        self._packed = torch._convert_weight_to_int4pack_for_cpu(rounded, 1)
        scales_zeros = torch.cat((scale, low + 8 * scale), dim=-1)  # the kernel counts from -8
        self._scales_zeros = scales_zeros.transpose(0, 1).contiguous().bfloat16()
        self.weight_bytes = self._packed.nbytes + self._scales_zeros.nbytes
        self.out = out
        self._bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        product = torch._weight_int4pack_mm_for_cpu(rows, self._packed, _GROUP, self._scales_zeros)
        if self._bias is not None:
            product = product + self._bias
        return product.to(x.dtype).view(*x.shape[:-1], self.out)
