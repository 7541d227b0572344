"""HiFT's decoder by the CPU's own kernels: its convolutions through AMX's tiles."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native import pointer
from chatterbox_engine.accel.native_linear import NativeLinear

if TYPE_CHECKING:
    from chatterbox_engine.s3gen.hift import HiFT

_WHOLE = 32
"""Numbers that fill a tile's row."""
_BLOCK = 16


class _Activation(IntEnum):
    PLAIN = 0
    LEAKY = 1
    SNAKE = 2


@dataclass(frozen=True)
class _Convolution:
    struct: native.Convolution
    outputs: int
    kept: tuple[object, ...]
    """What the structure points into."""


class NativeDecoder:
    """From mel and the source's spectrum to what the inverse STFT is made of: HiFT.decode's middle.

    Activations are frames first and in fp32 between two convolutions. Products are of bf16; `exact`: three of them, of
    what rounding leaves too, which is nearly fp32 (oneDNN's and cuBLAS's bf16x3).
    """

    def __init__(self, hift: "HiFT", *, exact: bool) -> None:
        kernels = native.kernels()
        assert kernels is not None
        self._kernel = kernels.convolution
        self._exact = exact
        spec = hift.spec
        self._pre = self._conv(hift.conv_pre)
        self._ups = [self._transposed(up, spec.slope) for up in hift.ups]
        self._downs = [self._conv(down) for down in hift.source_downs]
        self._source_blocks = [self._pairs(block) for block in hift.source_resblocks]
        blocks = [self._pairs(block) for block in hift.resblocks]
        parallel = len(spec.kernels)
        self._blocks = [blocks[first : first + parallel] for first in range(0, len(blocks), parallel)]
        self._post = self._conv(hift.conv_post, _Activation.LEAKY, 0.01)
        self._rates = spec.upsample_rates

    @staticmethod
    def runs(hift: "HiFT") -> bool:
        """The kernels and AMX are there, and fit the model as it was loaded."""
        weights = [up.get_parameter("weight") for up in hift.ups]
        fits = not any(weight.shape[1] % _WHOLE or weight.shape[0] % _WHOLE for weight in weights)
        return fits and all(weight.device.type == "cpu" for weight in weights) and native.has_tiles()

    def __call__(self, mel: Tensor, excitation: Tensor) -> Tensor:
        """mel (B, mel_bins, F) and excitation (B, n_fft + 2, M) -> (B, n_fft + 2, M), all fp32."""
        spectrum = excitation.transpose(1, 2).contiguous()
        x = self._run(self._pre, mel.transpose(1, 2).contiguous(), mel.shape[2])
        last = len(self._ups) - 1
        for stage, rate in enumerate(self._rates):
            batch, frames, _ = x.shape
            width = self._ups[stage].outputs // rate
            front = int(
                stage == last
            )  # the STFT has one frame more than the signal has hops: the second one's, reflected
            made = native.room(batch, frames * rate + front, width)
            self._run(self._ups[stage], x, frames, made, front * width)
            made[:, :front] = made[:, 2 * front : 3 * front]
            x = made
            excited = self._run(self._downs[stage], spectrum, x.shape[1])
            between, mixed = [native.room(*x.shape) for _ in range(2)], excited  # whose place is free by then
            self._residual(self._source_blocks[stage], excited, x, between, 1.0, add=True)
            for index, pairs in enumerate(self._blocks[stage]):
                self._residual(pairs, x, mixed, between, 1 / len(self._blocks[stage]), add=index > 0)
            x = mixed
        return self._run(self._post, x, x.shape[1]).transpose(1, 2)

    def _run(self, conv: _Convolution, x: Tensor, made: int, to: Tensor | None = None, begin: int = 0) -> Tensor:
        """x (B, T, inputs) -> (B, made, outputs), or into the rows of `to` from number `begin` on."""
        to = native.room(len(x), made, conv.outputs) if to is None else to
        self._call(conv, None, x, made, to, begin, 1.0, add=False)
        return to

    def _residual(
        self,
        pairs: list[tuple[_Convolution, _Convolution]],
        x: Tensor,
        to: Tensor,
        between: list[Tensor],
        share: float,
        *,
        add: bool,
    ) -> None:
        """A share of the residual block of x (B, T, W) goes to `to`, or is added to it. What lies between two pairs of
        it has two places."""
        for index, (one, two) in enumerate(pairs):
            final = index == len(pairs) - 1
            made = to if final else between[index % 2]
            self._call(one, two, x, x.shape[1], made, 0, share if final else 1.0, add=add and final)
            x = made

    def _call(
        self,
        one: _Convolution,
        two: _Convolution | None,
        x: Tensor,
        made: int,
        to: Tensor,
        begin: int,
        share: float,
        *,
        add: bool,
    ) -> None:
        batch, frames, _ = x.shape
        sizes = (ctypes.c_int64(size) for size in (batch, frames, made))
        failed = self._kernel(
            ctypes.byref(one.struct), None if two is None else ctypes.byref(two.struct), pointer(x), *sizes,
            ctypes.c_void_p(to.data_ptr() + to.element_size() * begin), ctypes.c_int64(to.stride(0)),
            ctypes.c_float(share), ctypes.c_int(add),
        )  # fmt: skip
        if failed:
            raise MemoryError("The vocoder's activations do not fit in memory.")

    def _pairs(self, block: nn.Module) -> list[tuple[_Convolution, _Convolution]]:
        first, second = (
            [self._conv(conv, _Activation.SNAKE, alpha=snake.get_parameter("alpha"))
             for snake, conv in zip(block.get_submodule(f"activations{which}").children(),
                                    block.get_submodule(f"convs{which}").children(), strict=True)]
            for which in (1, 2)
        )  # fmt: skip
        return list(zip(first, second, strict=True))

    def _conv(
        self,
        conv: nn.Module,
        activation: _Activation = _Activation.PLAIN,
        slope: float = 0.0,
        alpha: Tensor | None = None,
    ) -> _Convolution:
        assert isinstance(conv, nn.Conv1d)
        shape = conv.dilation[0], conv.stride[0], int(conv.padding[0])
        return self._made(conv.weight.transpose(1, 2), conv.bias, shape, activation, slope, alpha)

    def _transposed(self, conv: nn.Module, slope: float) -> _Convolution:
        """A convolution that makes a place's `stride` next ones side by side: tap s of three looks at the place s - 1
        after it, and has of output phase p the weight p + padding - (s - 1) stride, where there is one."""
        assert isinstance(conv, nn.ConvTranspose1d)
        inputs, outputs, kernel = conv.weight.shape
        rate, padding = conv.stride[0], int(conv.padding[0])
        weight = torch.zeros(rate, outputs, 3, inputs)
        for phase in range(rate):
            for tap in range(3):
                place = phase + padding - (tap - 1) * rate
                if 0 <= place < kernel:
                    weight[phase, :, tap] = conv.weight.detach()[:, :, place].T
        bias = None if conv.bias is None else conv.bias.repeat(rate)
        return self._made(weight.flatten(0, 1), bias, (1, 1, 1), _Activation.LEAKY, slope, None)

    def _made(
        self,
        weight: Tensor,
        bias: Tensor | None,
        shape: tuple[int, int, int],
        activation: _Activation,
        slope: float,
        alpha: Tensor | None,
    ) -> _Convolution:
        """weight (outputs, taps, inputs); shape: dilation, stride, padding."""
        outputs, taps, inputs = weight.shape
        missing = -inputs % _WHOLE
        whole = F.pad(weight.detach().float(), (0, missing)).flatten(1)
        parts = [whole, whole - whole.bfloat16().float()] if self._exact else [whole]
        assert bias is not None
        linear = NativeLinear(torch.cat(parts, dim=1), F.pad(bias, (0, -outputs % _BLOCK)), 0)
        linear.struct.inputs = taps * (inputs + missing)
        kept: tuple[object, ...] = (linear,)
        pointers = pointer(None), pointer(None)
        if alpha is not None:
            snake = (
                F.pad(alpha.detach().float(), (0, missing)),
                F.pad(1.0 / (alpha.detach().float() + 1e-9), (0, missing)),
            )
            pointers, kept = (pointer(snake[0]), pointer(snake[1])), (linear, snake)
        struct = native.Convolution(
            linear.struct, inputs, inputs + missing, taps, *shape, int(self._exact), int(activation), slope, *pointers
        )
        return _Convolution(struct, outputs, kept)
