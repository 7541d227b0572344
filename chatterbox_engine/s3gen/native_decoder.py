"""HiFT's decoder by the CPU's own kernels."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native_conv import WHOLE, Activation, NativeConv

if TYPE_CHECKING:
    from chatterbox_engine.s3gen.hift import HiFT

_Pairs = list[tuple[NativeConv, NativeConv]]


class NativeDecoder:
    """From mel and the source's spectrum to what the inverse STFT is made of: HiFT.decode's middle.

    `exact`: see NativeConv.
    """

    def __init__(self, hift: "HiFT", *, exact: bool) -> None:
        self._exact = exact
        spec = hift.spec
        self._pre = NativeConv.of(hift.conv_pre, exact)
        self._ups = [NativeConv.transposed(up, exact, spec.slope) for up in hift.ups]
        self._downs = [NativeConv.of(down, exact) for down in hift.source_downs]
        self._source_blocks = [self._pairs(block) for block in hift.source_resblocks]
        blocks = [self._pairs(block) for block in hift.resblocks]
        parallel = len(spec.kernels)
        self._blocks = [blocks[first : first + parallel] for first in range(0, len(blocks), parallel)]
        self._post = NativeConv.of(hift.conv_post, exact, Activation.LEAKY, 0.01)
        self._rates = spec.upsample_rates

    @staticmethod
    def runs(hift: "HiFT") -> bool:
        """The kernels are there, and fit the model as it was loaded."""
        weights = [up.get_parameter("weight") for up in hift.ups]
        fits = not any(weight.shape[1] % WHOLE or weight.shape[0] % WHOLE for weight in weights)
        return fits and all(weight.device.type == "cpu" for weight in weights) and native.multiplies_rows()

    def __call__(self, mel: Tensor, excitation: Tensor) -> Tensor:
        """mel (B, mel_bins, F) and excitation (B, n_fft + 2, M) -> (B, n_fft + 2, M), all fp32."""
        spectrum = excitation.transpose(1, 2).contiguous()
        x = self._pre(mel.transpose(1, 2).contiguous(), mel.shape[2])
        last = len(self._ups) - 1
        for stage, rate in enumerate(self._rates):
            batch, frames, _ = x.shape
            width = self._ups[stage].outputs // rate
            front = int(
                stage == last
            )  # the STFT has one frame more than the signal has hops: the second one's, reflected
            made = native.room(batch, frames * rate + front, width)
            self._ups[stage](x, frames, made, front * width)
            made[:, :front] = made[:, 2 * front : 3 * front]
            x = made
            excited = self._downs[stage](spectrum, x.shape[1])
            between, mixed = [native.room(*x.shape) for _ in range(2)], excited  # whose place is free by then
            _residual(self._source_blocks[stage], excited, x, between, 1.0, add=True)
            for index, pairs in enumerate(self._blocks[stage]):
                _residual(pairs, x, mixed, between, 1 / len(self._blocks[stage]), add=index > 0)
            x = mixed
        return self._post(x, x.shape[1]).transpose(1, 2)

    def _pairs(self, block: nn.Module) -> _Pairs:
        first, second = (
            [NativeConv.of(conv, self._exact, Activation.SNAKE, alpha=snake.get_parameter("alpha"))
             for snake, conv in zip(block.get_submodule(f"activations{which}").children(),
                                    block.get_submodule(f"convs{which}").children(), strict=True)]
            for which in (1, 2)
        )  # fmt: skip
        return list(zip(first, second, strict=True))


def _residual(pairs: _Pairs, x: Tensor, to: Tensor, between: list[Tensor], share: float, *, add: bool) -> None:
    """A share of the residual block of x (B, T, W) goes to `to`, or is added to it. What lies between two pairs of it
    has two places."""
    for index, (one, two) in enumerate(pairs):
        final = index == len(pairs) - 1
        made = to if final else between[index % 2]
        one.pair(two, x, made, share if final else 1.0, add=add and final)
        x = made
