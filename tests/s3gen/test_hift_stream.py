import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatterbox_engine.s3gen.hift import HiFT, initial_phases, source_noise
from chatterbox_engine.s3gen.hift_stream import HiFTStream, advance, context
from chatterbox_engine.spec import HiFTSpec
from tests.s3gen.conftest import MEL_BINS, QUIET, TOLERANCE, assert_speech, randomize, speak_in_turns, speech_mel

SPEC = HiFTSpec(base_width=32, f0_width=16)
SIZE = 480
REACH = context(SPEC)


@pytest.fixture(scope="module")
def hift() -> HiFT:
    """HiFT of real kernels, dilations and rates, but narrow, so that many windows are quick."""
    hift = HiFT(SPEC, MEL_BINS)
    randomize(hift, 3)
    hift.voiced = speak_in_turns(hift.f0_predictor, 4)
    hift.conv_post.weight.data *= QUIET
    return hift


def speech(hift: HiFT, frames: int, seed: int) -> Tensor:
    voiced = hift.voiced
    assert isinstance(voiced, Tensor)
    return speech_mel(frames, voiced, seed)[0]


def offline(hift: HiFT, mel: Tensor, seed: int) -> Tensor:
    """One pass over the whole mel (MEL_BINS, F)."""
    seeds, zero = torch.tensor([seed]), torch.zeros(1, dtype=torch.int64)
    f0 = hift.f0(mel[None])
    source, _ = hift.source(
        f0,
        torch.zeros(1, hift.harmonics, dtype=torch.float64),
        initial_phases(seeds, hift.harmonics),
        source_noise(seeds, zero, mel.shape[1] * SIZE, hift.harmonics),
    )
    audio = hift.decode(mel[None], source)[0]
    if mel.shape[1] > 26:
        assert_speech(f0, audio)
    return audio


def stream(hift: HiFT, mel: Tensor, seed: int, chunks: list[int], *, empty_end: bool) -> Tensor:
    """The same, fed chunk by chunk; checks that samples come as soon as they are settled."""
    state = HiFTStream(seed)
    parts, done = [], 0
    for index, new in enumerate(chunks):
        last = index == len(chunks) - 1 and not empty_end
        parts += advance(hift, [state], [mel[:, done : done + new]], [last])
        done += new
        settled = done if last else max(0, done - REACH.lookahead)
        assert sum(map(len, parts)) == settled * SIZE
    if empty_end:
        parts += advance(hift, [state], [mel[:, :0]], [True])
    assert done == mel.shape[1]
    return torch.cat(parts)


def test_context_is_what_the_layers_say() -> None:
    assert (REACH.left, REACH.right, REACH.f0, REACH.lookahead) == (15, 15, 5, 20)
    assert context(HiFTSpec()) == REACH, "width has no part in it"


def test_context_is_enough_and_no_more(hift: HiFT) -> None:
    """What one frame of source or mel changes, in float64, where the farthest influence is not rounded away."""
    frames, middle = 70, 35
    wide = HiFT(SPEC, MEL_BINS)
    wide.load_state_dict(hift.state_dict())
    wide.double().requires_grad_(False)
    mel = speech(hift, frames, 0).double()[None]
    source = 0.1 * torch.randn(1, 1, frames * SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = wide.decode(mel, source)

    def changed_frames(mel: Tensor, source: Tensor) -> tuple[int, int]:
        differs = (wide.decode(mel, source) - plain)[0].view(frames, SIZE).any(1).nonzero()
        return middle - int(differs.min()), int(differs.max()) - middle

    other_source, other_mel = source.clone(), mel.clone()
    other_source[:, :, middle * SIZE : (middle + 1) * SIZE] += 1.0
    other_mel[:, :, middle] += 1.0
    assert changed_frames(mel, other_source) == (REACH.right, REACH.left)
    assert max(changed_frames(other_mel, source)) <= min(REACH.right, REACH.left)

    difference = (hift.f0(other_mel) - hift.f0(mel))[0].nonzero()
    assert int(difference.min()) == middle - REACH.f0
    assert int(difference.max()) == middle + REACH.f0


@settings(max_examples=40)
@given(
    chunks=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda sizes: 0 < sum(sizes) <= 90),
    seed=st.integers(0, 2**63 - 1),
    empty_end=st.booleans(),
)
def test_any_chunking_equals_the_offline_pass(hift: HiFT, chunks: list[int], seed: int, empty_end: bool) -> None:
    mel = speech(hift, sum(chunks), seed % 1000)
    streamed = stream(hift, mel, seed, chunks, empty_end=empty_end)
    torch.testing.assert_close(streamed, offline(hift, mel, seed), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("chunks", [[1] * 55, [1], [3, 50, 1, 1], [19, 1, 1, 1, 30], [20, 21]])
@pytest.mark.parametrize("empty_end", [True, False])
def test_awkward_chunkings_equal_the_offline_pass(hift: HiFT, chunks: list[int], empty_end: bool) -> None:
    mel = speech(hift, sum(chunks), 1)
    streamed = stream(hift, mel, 9, chunks, empty_end=empty_end)
    torch.testing.assert_close(streamed, offline(hift, mel, 9), atol=TOLERANCE, rtol=0)


def test_a_long_stream_does_not_drift(hift: HiFT) -> None:
    """Rounding of F0 that depends on the window would add up in the phase."""
    mel = speech(hift, 700, 2)
    streamed = stream(hift, mel, 3, [7] * 100, empty_end=False)
    torch.testing.assert_close(streamed, offline(hift, mel, 3), atol=TOLERANCE / 3, rtol=0)


def test_streams_together_equal_each_alone(hift: HiFT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams in step, one a chunk late, one that ends early: alone and together they sound the same."""
    chunks = {0: [40, 25, 25], 1: [40, 25, 25], 2: [40, 25, 25], 3: [0, 40, 50], 4: [40, 50, 0]}
    mels = {seed: speech(hift, 90, seed) for seed in chunks}
    streams = {seed: HiFTStream(seed) for seed in chunks}
    heard: dict[int, list[Tensor]] = {seed: [] for seed in chunks}
    batches: list[int] = []
    decode = hift.decode
    monkeypatch.setattr(hift, "decode", lambda mel, source: batches.append(len(mel)) or decode(mel, source))
    for step in range(3):
        active = [seed for seed in chunks if not streams[seed].finished]
        new = [mels[s][:, sum(chunks[s][:step]) : sum(chunks[s][: step + 1])] for s in active]
        final = [sum(chunks[s][: step + 1]) == 90 for s in active]
        for seed, part in zip(active, advance(hift, [streams[s] for s in active], new, final), strict=True):
            heard[seed].append(part)
    assert sorted(batches) == [1, 1, 1, 3, 3, 4]
    for seed, parts in heard.items():
        torch.testing.assert_close(torch.cat(parts), offline(hift, mels[seed], seed), atol=TOLERANCE, rtol=0)


def test_a_stream_holds_a_bounded_past(hift: HiFT) -> None:
    state = HiFTStream(0)
    mel = speech(hift, 200, 0)
    for start in range(0, 200, 40):
        advance(hift, [state], [mel[:, start : start + 40]], [False])
        assert state.held is not None
        frames = REACH.left + REACH.lookahead
        assert state.held.mel.untyped_storage().nbytes() <= 4 * MEL_BINS * frames
        assert state.held.source.untyped_storage().nbytes() <= 4 * SIZE * frames
    advance(hift, [state], [mel[:, :0]], [True])
    assert state.held is None


def test_an_empty_utterance_has_no_samples(hift: HiFT) -> None:
    (samples,) = advance(hift, [HiFTStream(0)], [torch.empty(MEL_BINS, 0)], [True])
    assert samples.shape == (0,)


def test_a_finished_stream_is_refused_and_the_others_stay(hift: HiFT) -> None:
    over, running = HiFTStream(0), HiFTStream(1)
    mel = speech(hift, 5, 0)
    advance(hift, [over], [mel], [True])
    with pytest.raises(ValueError, match="finished"):
        advance(hift, [running, over], [mel, mel], [False, False])
    assert running == HiFTStream(1)
