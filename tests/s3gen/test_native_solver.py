"""All Euler steps by the CPU's own kernels, against the same in PyTorch and fp32."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatterbox_engine.accel import native
from chatterbox_engine.checkpoint import find
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.native_solver import NativeSolver
from chatterbox_engine.s3gen.pages import PagedPast
from chatterbox_engine.s3gen.solver import EulerSolver
from chatterbox_engine.spec import SPECS, ModelSpec, S3GenSpec
from chatterbox_engine.stages import S3GEN_FILE
from chatterbox_engine.weights import RandomWeights, load
from tests.kernels import SETS, kernel_set

TINY = ModelSpec.load(SPECS / "tiny.json").s3gen
WIDE = TINY.estimator.model_copy(update={"width": 160, "head_width": 64, "stage_blocks": 2, "mid_stages": 1})
KINDS = {
    "guided": TINY.model_copy(update={"cfm_steps": 4}),
    "meanflow": TINY.model_copy(update={"meanflow": True, "cfm_steps": 2}),
    "wide": TINY.model_copy(update={"estimator": WIDE, "cfm_steps": 3}),
    "two stages": TINY.model_copy(
        update={"estimator": TINY.estimator.model_copy(update={"mid_stages": 0}), "cfm_steps": 2}
    ),
}
CLOSE = {torch.bfloat16: 0.02, torch.float32: 0.003}
"""Of the mel's standard deviation, on average: before each product activations are rounded to bf16 with AMX, with AVX2
to whole numbers of 16 bits."""


class Pair:
    """The same weights, rounded to bf16, in fp32 by PyTorch and in 16 bits by the kernels."""

    def __init__(self, spec: S3GenSpec) -> None:
        self.spec = spec
        kernels = native.kernels()
        assert kernels is not None
        self.close = CLOSE[native.number_dtype(kernels)]
        self.rounded, wide = Estimator(spec), Estimator(spec)
        load(self.rounded, RandomWeights(3), "flow.decoder.estimator.", torch.bfloat16)
        load(wide, RandomWeights(3), "flow.decoder.estimator.", torch.bfloat16)
        self.rounded.requires_grad_(False)
        self.expected = EulerSolver(wide.float().requires_grad_(False), spec)
        self.own = NativeSolver(self.rounded, spec)

    def inputs(self, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noise, mu, speaker, and known frames of which the first third are not zero."""
        bins, generator = self.spec.mel_bins, torch.Generator().manual_seed(seed)
        x, mu, cond = (torch.randn(batch, bins, frames, generator=generator) for _ in range(3))
        cond[:, :, frames // 3 :] = 0.0
        return x, mu, torch.randn(batch, bins, generator=generator), cond

    def assert_close(self, ours: Tensor, expected: Tensor) -> None:
        assert expected.std() > 0.1
        assert (ours - expected).abs().mean() < self.close * expected.std()


@pytest.fixture(scope="module", params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    with kernel_set(request.param, many_rows=True):
        yield


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, kernels: None) -> Pair:
    return Pair(KINDS[request.param])


@pytest.fixture(scope="module")
def guided(kernels: None) -> Pair:
    return Pair(KINDS["guided"])


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize("frames", [1, 2, 31, 33, 70, 300])
def test_a_whole_utterance(pair: Pair, frames: int) -> None:
    given = pair.inputs(1, frames)
    steps = pair.spec.cfm_steps
    pair.assert_close(pair.own(*given, steps), pair.expected(*given, steps))


def test_rows_of_different_lengths(pair: Pair) -> None:
    given = pair.inputs(3, 90)
    ends = torch.tensor([90, 1, 33])
    ours, expected = (solver(*given, 2, ends=ends) for solver in (pair.own, pair.expected))
    for row, end in enumerate(ends.tolist()):
        pair.assert_close(ours[row, :, :end], expected[row, :, :end])
        alone = (part[row : row + 1, ..., :end] if part.dim() == 3 else part[row : row + 1] for part in given)
        assert torch.equal(pair.own(*alone, 2)[0], ours[row, :, :end])


@given(st.lists(st.lists(st.integers(1, 50), min_size=2, max_size=2), min_size=1, max_size=5))
@settings(max_examples=20)
def test_chunks_of_two_streams(guided: Pair, chunks: list[list[int]]) -> None:
    pasts = [[solver.begin(2) for _ in range(2)] for solver in (guided.own, guided.expected)]
    for number, counts in enumerate(chunks):
        given = guided.inputs(2, max(counts), number)
        ours, expected = (
            solver.go_on(*given, counts, own) for solver, own in zip((guided.own, guided.expected), pasts, strict=True)
        )
        for row, count in enumerate(counts):
            guided.assert_close(ours[row, :, :count], expected[row, :, :count])


def test_what_is_forgotten_is_not_attended_to(pair: Pair) -> None:
    pasts = [solver.begin(2) for solver in (pair.own, pair.expected)]
    for number, (count, kept) in enumerate(((40, None), (50, (20, 30)), (9, (20, 5)), (40, (20, 40)))):
        given = pair.inputs(1, count, number)
        ours, expected = (
            solver.go_on(*given, [count], [past]) for solver, past in zip((pair.own, pair.expected), pasts, strict=True)
        )
        pair.assert_close(ours, expected)
        for past in pasts:
            if kept:
                past.forget(*kept)
    assert isinstance(pasts[0], PagedPast)
    assert sum(page.there.bit_count() for page in pasts[0].pages) == 60
    assert len(pasts[0].pages) < 5  # of 139 places in all


def test_a_copy_goes_its_own_way(guided: Pair) -> None:
    """It shares its pages with where it comes from, which both leave as they are."""
    past = guided.own.begin(2)
    guided.own.go_on(*guided.inputs(1, 40), [40], [past])
    own, other = past.copy(), past.copy()
    given = guided.inputs(1, 20, 1)
    first = guided.own.go_on(*given, [20], [own])
    guided.own.go_on(*guided.inputs(1, 30, 2), [30], [other])
    assert torch.equal(guided.own.go_on(*given, [20], [past.copy()]), first)
    assert isinstance(past, PagedPast)
    assert isinstance(own, PagedPast)
    assert [page.memory.data_ptr() for page in own.pages[:2]] == [page.memory.data_ptr() for page in past.pages]


@pytest.mark.parametrize("frames", [20, 131, 700])
def test_threads_change_nothing(guided: Pair, frames: int, threads: int) -> None:
    """Nor where one ends and the next one begins between two places that share a word."""
    made = []
    for count in (1, 2, 3, 2, 3):
        torch.set_num_threads(count)
        past = guided.own.begin(2)
        for number, own in enumerate((frames, frames + 1)):
            made.append(guided.own.go_on(*guided.inputs(1, own, number), [own], [past]))
    for first, second in zip(made[2::2], made[3::2], strict=True):
        assert torch.equal(first, made[0])
        assert torch.equal(second, made[1])


def test_sums_at_their_limit(kernels: None) -> None:
    """All inputs of the first convolution are one number, and so is what multiplies them, up to its sign."""
    spec = KINDS["guided"]
    alike = Estimator(spec)
    load(alike, RandomWeights(3), "flow.decoder.estimator.", torch.float32)
    alike.requires_grad_(False)
    first = alike.get_parameter("down_blocks.0.0.block1.block.0.weight")
    first.copy_(torch.ones_like(first) * torch.tensor([1.0, -1.0]).repeat(len(first) // 2)[:, None, None])
    ones = torch.ones(1, spec.mel_bins, 9)
    given = ones, ones, torch.ones(1, spec.mel_bins), ones
    ours, expected = (solver(alike, spec)(*given, 1) for solver in (NativeSolver, EulerSolver))
    assert (ours - expected).abs().mean() < CLOSE[torch.bfloat16] * expected.std()


def test_the_bundled_voice_in_whole_numbers(kernels: None) -> None:
    """Trained weights, which differ in size from output to output, against the same in fp32."""
    library, checkpoint = native.kernels(), find("demo", "cpu")
    if library is None or native.number_dtype(library) != torch.float32:
        pytest.skip("with AMX its rows are in bf16")
    spec = checkpoint.spec.s3gen
    trained = Estimator(spec)
    load(trained, checkpoint.weights(S3GEN_FILE), "flow.decoder.estimator.", torch.float32)
    trained.requires_grad_(False)
    torch.manual_seed(0)
    x, mu, cond = (torch.randn(1, spec.mel_bins, 120) for _ in range(3))
    given = x, mu, torch.randn(1, spec.mel_bins), cond
    ours, expected = (solver(trained, spec)(*given, spec.cfm_steps) for solver in (NativeSolver, EulerSolver))
    assert (ours - expected).abs().mean() < 0.002 * expected.std()


@pytest.mark.skipif(not native.multiplies_rows(), reason="this processor's kernels do not multiply many rows")
def test_what_does_not_fit_or_is_not_wanted_is_left_to_pytorch() -> None:
    auto, cpu = S3GenSwitches(), torch.device("cpu")
    assert NativeSolver.runs(TINY, auto, torch.float32, cpu)
    assert NativeSolver.runs(TINY, S3GenSwitches(precision="bf16"), torch.bfloat16, cpu)
    odd = TINY.model_copy(update={"estimator": TINY.estimator.model_copy(update={"head_width": 48})})
    assert not NativeSolver.runs(odd, auto, torch.bfloat16, cpu)
    assert not NativeSolver.runs(TINY, auto, torch.bfloat16, torch.device("cuda"))
    assert not NativeSolver.runs(TINY, S3GenSwitches(precision="fp32"), torch.float32, cpu)
    for switch in ({"cpu_kernels": "plain"}, {"compile": "default"}):
        assert not NativeSolver.runs(TINY, S3GenSwitches(**switch), torch.bfloat16, cpu)
