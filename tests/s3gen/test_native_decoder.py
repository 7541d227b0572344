"""HiFT's convolutions by the CPU's own kernels, against the same in PyTorch and fp32."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from chatterbox_engine.accel import native
from chatterbox_engine.checkpoint import find
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.s3gen.native_decoder import NativeDecoder
from chatterbox_engine.spec import SPECS, HiFTSpec, ModelSpec
from chatterbox_engine.weights import RandomWeights, load
from tests.kernels import SETS, kernel_set

BINS = 80
TINY = ModelSpec.load(SPECS / "tiny.json").s3gen.hift
KINDS = {
    "three stages": TINY.model_copy(update={"base_width": 256}),
    "demo": find("demo", "cpu").spec.s3gen.hift,
}
EXACT = 5e-5
ROUNDED = 0.1


def made(spec: HiFTSpec) -> HiFT:
    hift = HiFT(spec, BINS)
    load(hift, RandomWeights(5), "mel2wav.")
    return hift.requires_grad_(False)


@pytest.fixture(params=SETS, autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    with kernel_set(request.param, many_rows=True):
        yield


@pytest.fixture(scope="module", params=list(KINDS))
def hift(request: pytest.FixtureRequest) -> HiFT:
    return made(KINDS[request.param])


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def inputs(hift: HiFT, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Mel, and the spectrum of a source."""
    torch.manual_seed(0)
    source = 0.1 * torch.randn(batch, 1, frames * hift.samples_per_frame)
    return torch.randn(batch, BINS, frames), hift.stft(source)


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 2), (2, 9), (1, 75)])
def test_it_is_pytorchs_in_fp32(hift: HiFT, batch: int, frames: int) -> None:
    given = inputs(hift, batch, frames)
    expected = hift.convolve(*given)
    assert expected.std() > 0.05
    for exact, close in ((True, EXACT), (False, ROUNDED)):
        torch.testing.assert_close(NativeDecoder(hift, exact=exact)(*given), expected, atol=close, rtol=close)


def test_samples_are_within_a_ten_thousandth(hift: HiFT) -> None:
    mel, _ = inputs(hift, 1, 40)
    source = 0.1 * torch.randn(1, 1, 40 * hift.samples_per_frame)
    expected = hift.decode(mel, source)
    hift.native = NativeDecoder(hift, exact=True)
    try:
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(hift.decode(mel, source), expected, atol=1e-4, rtol=0)
    finally:
        hift.native = None


@pytest.mark.parametrize("exact", [True, False])
def test_a_row_is_what_it_is_alone_and_whatever_the_threads(hift: HiFT, exact: bool, threads: int) -> None:
    mel, excitation = inputs(hift, 3, 70)
    decoder = NativeDecoder(hift, exact=exact)
    together = decoder(mel, excitation)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(decoder(mel[1:2], excitation[1:2]), together[1:2])


@pytest.mark.skipif(not native.multiplies_rows(), reason="this processor's kernels do not multiply many rows")
def test_what_does_not_fit_is_left_to_pytorch() -> None:
    assert NativeDecoder.runs(made(KINDS["demo"]))
    assert not NativeDecoder.runs(made(TINY))  # whose last stage is 8 channels wide
