import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatterbox_engine.s3gen.hift_stream import context as hift_context
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.s3gen.vocos_stream import Context, VocosStream, advance, context
from chatterbox_engine.spec import HiFTSpec, VocosSpec
from tests.s3gen.conftest import MEL_BINS, randomize

SPEC = VocosSpec(width=32, mlp_width=64, layers=3)
SIZE = SPEC.hop
REACH = context(SPEC)
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def vocos() -> Vocos:
    vocos = Vocos(SPEC, MEL_BINS)
    randomize(vocos, 3)
    return vocos


def speech(frames: int, seed: int) -> Tensor:
    """Mel (MEL_BINS, frames)."""
    return torch.randn(MEL_BINS, frames, generator=torch.Generator().manual_seed(seed)) * 2.0 - 4.0


def offline(vocos: Vocos, mel: Tensor) -> Tensor:
    """One pass over the whole mel (MEL_BINS, F)."""
    audio = vocos(mel[None])[0]
    assert 0.01 < audio.std() < 1.0
    return audio


def stream(vocos: Vocos, mel: Tensor, chunks: list[int], *, empty_end: bool) -> Tensor:
    """The same, fed chunk by chunk; checks that samples come as soon as they are settled."""
    state = VocosStream()
    parts, done = [], 0
    for index, new in enumerate(chunks):
        last = index == len(chunks) - 1 and not empty_end
        parts += advance(vocos, [state], [mel[:, done : done + new]], [last])
        done += new
        assert sum(map(len, parts)) == (done if last else max(0, done - REACH.right)) * SIZE
    if empty_end:
        parts += advance(vocos, [state], [mel[:, :0]], [True])
    assert done == mel.shape[1]
    return torch.cat(parts)


def test_it_waits_for_no_more_than_hift() -> None:
    assert Context(left=20, right=8) == REACH
    assert context(VocosSpec(layers=6)) == Context(left=35, right=11)
    assert context(VocosSpec()).right < hift_context(HiFTSpec()).lookahead


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_context_is_enough_and_no_more(ahead: int) -> None:
    """What one frame of mel changes, in float64, where the farthest influence is not rounded away."""
    spec = SPEC.model_copy(update={"ahead": ahead})
    wide = Vocos(spec, MEL_BINS)
    randomize(wide, 3)
    wide.double()
    mel = speech(90, 0).double()[None]
    other = mel.clone()
    other[:, :, 45] += 3.0
    differs = (wide(other) - wide(mel))[0].view(90, SIZE).any(1).nonzero()
    reach = context(spec)
    assert (45 - int(differs.min()), int(differs.max()) - 45) == (reach.right, reach.left)


@settings(max_examples=60)
@given(
    chunks=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda sizes: 0 < sum(sizes) <= 120),
    seed=st.integers(0, 1000),
    empty_end=st.booleans(),
)
def test_any_chunking_equals_the_offline_pass(vocos: Vocos, chunks: list[int], seed: int, empty_end: bool) -> None:
    mel = speech(sum(chunks), seed)
    streamed = stream(vocos, mel, chunks, empty_end=empty_end)
    torch.testing.assert_close(streamed, offline(vocos, mel), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("chunks", [[1] * 55, [1], [3, 50, 1, 1], [8, 1, 1, 1, 30], [20, 21], [7] * 100])
@pytest.mark.parametrize("empty_end", [True, False])
def test_awkward_chunkings_equal_the_offline_pass(vocos: Vocos, chunks: list[int], empty_end: bool) -> None:
    mel = speech(sum(chunks), 1)
    streamed = stream(vocos, mel, chunks, empty_end=empty_end)
    torch.testing.assert_close(streamed, offline(vocos, mel), atol=TOLERANCE, rtol=0)


def test_streams_together_equal_each_alone(vocos: Vocos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams in step, one a chunk late, one that ends early: alone and together they sound the same."""
    chunks = {0: [40, 25, 25], 1: [40, 25, 25], 2: [40, 25, 25], 3: [0, 40, 50], 4: [40, 50, 0]}
    mels = {seed: speech(90, seed) for seed in chunks}
    streams = {seed: VocosStream() for seed in chunks}
    heard: dict[int, list[Tensor]] = {seed: [] for seed in chunks}
    batches: list[int] = []
    forward = vocos.forward
    monkeypatch.setattr(vocos, "forward", lambda mel: batches.append(len(mel)) or forward(mel))
    for step in range(3):
        active = [seed for seed in chunks if not streams[seed].finished]
        new = [mels[s][:, sum(chunks[s][:step]) : sum(chunks[s][: step + 1])] for s in active]
        final = [sum(chunks[s][: step + 1]) == 90 for s in active]
        for seed, part in zip(active, advance(vocos, [streams[s] for s in active], new, final), strict=True):
            heard[seed].append(part)
    assert sorted(batches) == [1, 1, 1, 3, 3, 4]
    for seed, parts in heard.items():
        torch.testing.assert_close(torch.cat(parts), offline(vocos, mels[seed]), atol=TOLERANCE, rtol=0)


def test_a_stream_holds_a_bounded_past(vocos: Vocos) -> None:
    state = VocosStream()
    mel = speech(200, 0)
    for start in range(0, 200, 40):
        advance(vocos, [state], [mel[:, start : start + 40]], [False])
        assert state.held is not None
        assert state.held.untyped_storage().nbytes() <= 4 * MEL_BINS * (REACH.left + REACH.right)
    advance(vocos, [state], [mel[:, :0]], [True])
    assert state.held is None


def test_an_empty_utterance_has_no_samples(vocos: Vocos) -> None:
    (samples,) = advance(vocos, [VocosStream()], [torch.empty(MEL_BINS, 0)], [True])
    assert samples.shape == (0,)


def test_a_finished_stream_is_refused_and_the_others_stay(vocos: Vocos) -> None:
    over, running = VocosStream(), VocosStream()
    advance(vocos, [over], [speech(5, 0)], [True])
    with pytest.raises(ValueError, match="finished"):
        advance(vocos, [running, over], [speech(5, 0)] * 2, [False, False])
    assert running == VocosStream()
