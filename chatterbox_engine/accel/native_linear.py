"""Linear layers over the CPU's own kernels, in bf16 or 8 bits."""

import ctypes

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel import native

BLOCK = 16
"""Outputs that lie together."""
_LARGEST = 127
_LARGEST_SHORT = 4095


class NativeLinear(nn.Module):
    """(..., in) -> (..., out) over packed weights.

    Weights are in bf16 (`digits` 0), or in 8 bits, symmetric, with a scale for each output. Then each row of
    activations has a scale of its own and is cut into one or two 8-bit digits, whose products are summed exactly: a
    row's result does not depend on the rows beside it. Two digits leave the rounding of the weights alone.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, digits: int) -> None:
        """weight (out, in), bias (out,). Raises ValueError where the inputs do not fill whole tiles of 64 bytes."""
        super().__init__()
        self.out, inputs = weight.shape
        if inputs % (whole := 64 if digits else 32):
            raise ValueError(f"{inputs} inputs are no multiple of {whole}")
        missing = -self.out % BLOCK
        self._scale = self._sums = None
        if digits:
            rounded, self._scale = _whole(weight.detach().float(), _LARGEST, torch.int8)
            self._sums = F.pad(rounded.sum(dim=1, dtype=torch.int32), (0, missing))
            self._packed = packed(F.pad(rounded, (0, 0, 0, missing)), 4)
        else:
            self._packed = packed(F.pad(weight.detach().bfloat16(), (0, 0, 0, missing)), 2)
        self._bias = None if bias is None else bias.detach().float().contiguous()
        own = (self._packed, self._scale, self._sums, self._bias)
        self.weight_bytes = sum(tensor.nbytes for tensor in own if tensor is not None)
        self.struct = native.Linear(self.out, inputs, digits, *(native.pointer(tensor) for tensor in own))
        kernels = native.kernels()
        assert kernels is not None
        self._kernel = kernels.linear

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        made = torch.empty(len(rows), self.out)
        arguments = native.pointer(rows), ctypes.c_int64(len(rows)), native.pointer(made)
        if self._kernel(ctypes.byref(self.struct), *arguments) != 0:
            raise MemoryError("A linear layer's activations do not fit in memory.")
        return made.to(x.dtype).view(*x.shape[:-1], self.out)


class ShortLinear:
    """A layer's weights as whole numbers of 13 bits, with a scale for each output (native/avx2_shorts.h)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight (out, in), bias (out,)"""
        outputs, inputs = weight.shape
        wide = F.pad(weight.detach().float(), (0, 0, 0, -outputs % BLOCK))
        rounded, scale = _whole(wide, _LARGEST_SHORT, torch.int16)
        shorts = packed(rounded, 2)
        bias = None if bias is None else bias.detach().float().contiguous()
        self._kept = shorts, scale, bias
        own = native.pointer(shorts), native.pointer(scale), native.pointer(None), native.pointer(bias)
        self.struct = native.Linear(outputs, inputs, 0, *own)


def _whole(weight: Tensor, largest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(out, in) as whole numbers up to `largest`, and what they are to be multiplied by (out,)."""
    scale = (weight.abs().amax(dim=1).clamp(min=1e-12) / largest).contiguous()
    return (weight / scale[:, None]).round().to(dtype), scale


def packed(weight: Tensor, together: int) -> Tensor:
    """(out, in) as blocks of 16 outputs, within a block `together` inputs of each output side by side."""
    order = weight.view(len(weight) // BLOCK, BLOCK, -1, together).transpose(1, 2)
    # NumPy asks the system for huge pages, of which a step has to look up far fewer.
    pages = torch.from_numpy(np.empty(weight.nbytes, np.uint8)).view(weight.dtype).view(order.shape)
    return pages.copy_(order)
