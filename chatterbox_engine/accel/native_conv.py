"""Convolutions by the CPU's own kernels (native/vocoder.h)."""

import ctypes
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native import pointer
from chatterbox_engine.accel.native_linear import BLOCK, packed

WHOLE = 32
"""Numbers that fill a tile's row."""


class Activation(IntEnum):
    """Of what is convolved."""

    PLAIN = 0
    LEAKY = 1
    SNAKE = 2


class NativeConv:
    """x (B, T, inputs) -> (B, made, outputs), activated before it is convolved: frames first, in fp32 between two.

    With AMX products are of bf16; `exact`: three of them, of what rounding leaves too, which is nearly fp32 (oneDNN's
    and cuBLAS's bf16x3). With AVX2 the weights alone are in bf16; `exact`: in fp32.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        shape: tuple[int, int, int],
        exact: bool,
        activation: Activation = Activation.PLAIN,
        slope: float = 0.0,
        alpha: Tensor | None = None,
    ) -> None:
        """weight (outputs, taps, inputs), bias (outputs); dilation, stride, padding; alpha (inputs), for SNAKE"""
        kernels = native.kernels()
        assert kernels is not None
        self._kernel = kernels.convolution
        self.outputs, taps, inputs = weight.shape
        missing = -inputs % WHOLE
        number, more = native.number_dtype(kernels), -self.outputs % BLOCK
        whole = F.pad(weight.detach().float(), (0, missing, 0, 0, 0, more)).flatten(1)
        if exact and number == torch.bfloat16:
            whole = torch.cat([whole, whole - whole.bfloat16().float()], dim=1)
        whole = whole.to(number if exact else torch.bfloat16)
        self._kept = packed(whole, 4 // whole.itemsize), F.pad(bias.detach().float(), (0, more))
        own = pointer(self._kept[0]), pointer(None), pointer(None), pointer(self._kept[1])
        linear = native.Linear(self.outputs, taps * (inputs + missing), 0, *own)
        self._snake: tuple[Tensor, Tensor] | None = None
        if alpha is not None:
            wide = alpha.detach().float()
            self._snake = F.pad(wide, (0, missing)), F.pad(1.0 / (wide + 1e-9), (0, missing))
        self._struct = native.Convolution(
            linear, inputs, inputs + missing, taps, *shape, int(exact), int(activation), slope,
            *map(pointer, self._snake or (None, None)),
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        conv: nn.Module,
        exact: bool,
        activation: Activation = Activation.PLAIN,
        slope: float = 0.0,
        alpha: Tensor | None = None,
    ) -> "NativeConv":
        assert isinstance(conv, nn.Conv1d)
        assert conv.bias is not None
        shape = conv.dilation[0], conv.stride[0], int(conv.padding[0])
        return cls(conv.weight.transpose(1, 2), conv.bias, shape, exact, activation, slope, alpha)

    @classmethod
    def transposed(cls, conv: nn.Module, exact: bool, slope: float) -> "NativeConv":
        """A convolution that makes a place's `stride` next ones side by side: tap s of three looks at the place s - 1
        after it, and has of output phase p the weight p + padding - (s - 1) stride, where there is one."""
        assert isinstance(conv, nn.ConvTranspose1d)
        assert conv.bias is not None
        inputs, outputs, kernel = conv.weight.shape
        rate, padding = conv.stride[0], int(conv.padding[0])
        weight = torch.zeros(rate, outputs, 3, inputs)
        for phase in range(rate):
            for tap in range(3):
                place = phase + padding - (tap - 1) * rate
                if 0 <= place < kernel:
                    weight[phase, :, tap] = conv.weight.detach()[:, :, place].T
        return cls(weight.flatten(0, 1), conv.bias.repeat(rate), (1, 1, 1), exact, Activation.LEAKY, slope)

    def __call__(self, x: Tensor, made: int, to: Tensor | None = None, begin: int = 0) -> Tensor:
        """x (B, T, inputs) -> (B, made, outputs), or into each row of `to` from its number `begin` on."""
        to = native.room(len(x), made, self.outputs) if to is None else to
        self._call(None, x, made, to, begin, 1.0, add=False)
        return to

    def pair(self, second: "NativeConv", x: Tensor, to: Tensor, share: float, *, add: bool) -> None:
        """A share of x + second(self(x)), (B, T, outputs), goes to `to`, or is added to it."""
        self._call(second, x, x.shape[1], to, 0, share, add=add)

    def _call(
        self, second: "NativeConv | None", x: Tensor, made: int, to: Tensor, begin: int, share: float, *, add: bool
    ) -> None:
        batch, frames, _ = x.shape
        sizes = (ctypes.c_int64(size) for size in (batch, frames, made))
        failed = self._kernel(
            ctypes.byref(self._struct), None if second is None else ctypes.byref(second._struct), pointer(x), *sizes,
            ctypes.c_void_p(to.data_ptr() + to.element_size() * begin), ctypes.c_int64(to.stride(0)),
            ctypes.c_float(share), ctypes.c_int(add),
        )  # fmt: skip
        if failed:
            raise MemoryError("The activations of a convolution do not fit in memory.")
