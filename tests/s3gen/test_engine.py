"""S3Gen's engine: any chunking gives the whole utterance, alone and in company, without seams, at the reader's pace."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.errors import ChatterboxError, EngineDead, Overloaded, SpeechFailed
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.s3gen.mels import ChunkedMels, WindowMels
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.s3gen.scheduler import Work
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.types import Begun, Interrupted, Progress, S3GenVoice, SpokenWord
from chatterbox_engine.watermark import Watermarker
from chatterbox_engine.weights import RandomWeights

SPEC = ModelSpec.load(SPECS / "tiny.json").s3gen.model_copy(update={"cfm_steps": 2})
WHOLE = (10**6,)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> S3GenModel:
    return S3GenModel(SPEC, RandomWeights(0), torch.float32, CPU)


@pytest.fixture(scope="module")
def engine(model: S3GenModel) -> Iterator[S3GenEngine]:
    engine = S3GenEngine(model, S3GenSwitches(max_streams=8), None)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def chunked(model: S3GenModel) -> Iterator[S3GenEngine]:
    """Chunks go on from what is kept of those before."""
    engine = S3GenEngine(model, S3GenSwitches(max_streams=8, flow_attention="chunked"), None)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def cropping() -> Iterator[S3GenEngine]:
    spec = SPEC.model_copy(update={"crop_last_token": True})
    engine = S3GenEngine(S3GenModel(spec, RandomWeights(0), torch.float32, CPU), S3GenSwitches(), None)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def turbo() -> Iterator[S3GenEngine]:
    """With a mean flow, and silence after each piece."""
    spec = SPEC.model_copy(update={"meanflow": True, "opening_tokens": (7,), "closing_tokens": (4299, 4299, 4299)})
    engine = S3GenEngine(S3GenModel(spec, RandomWeights(0), torch.float32, CPU), S3GenSwitches(max_streams=8), None)
    engine.start()
    yield engine
    engine.stop()


def voice(prompt: int = 12) -> S3GenVoice:
    generator = torch.Generator().manual_seed(prompt)
    return S3GenVoice(
        f"v{prompt}",
        torch.randint(0, 6561, (1, prompt), generator=generator),
        torch.randn(1, 2 * prompt, 80, generator=generator) - 6,
        torch.randn(1, 192, generator=generator),
    )


def tokens(count: int, start: int = 1) -> list[int]:
    return [(start + 37 * i) % 6561 for i in range(count)]


def spoken(stream: SpeechStream) -> np.ndarray:
    chunks: list[np.ndarray] = []
    final = False
    while not final:
        read, final = stream.audio.read(timeout=20)
        chunks += read
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def say(engine: S3GenEngine, count: int, schedule: tuple[int, ...], seed: int = 3, window: int | None = None,
        speaking: S3GenVoice | None = None) -> np.ndarray:  # fmt: skip
    stream = engine.open(speaking or voice(), schedule=schedule, context_window=window, paced=False)
    stream.begin_piece(seed, 0.0)
    stream.feed(tokens(count), final=True)
    stream.finish()
    return spoken(stream)


@given(
    count=st.integers(0, 40),
    schedule=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    feeds=st.lists(st.integers(0, 10), max_size=5),
    window=st.one_of(st.none(), st.integers(0, 10)),
    chunks=st.booleans(),
)
@settings(max_examples=15)
def test_every_token_becomes_960_samples_however_it_comes(
    request: pytest.FixtureRequest, count: int, schedule: list[int], feeds: list[int], window: int | None, chunks: bool
) -> None:
    engine: S3GenEngine = request.getfixturevalue("chunked" if chunks else "engine")
    stream = engine.open(voice(), schedule=tuple(schedule), context_window=window, paced=False)
    stream.begin_piece(3, 0.0)
    rest = tokens(count)
    for size in feeds:
        stream.feed(rest[:size], final=False)
        rest = rest[size:]
    stream.feed(rest, final=True)
    stream.finish()
    audio = spoken(stream)
    assert len(audio) == 960 * count
    # The same tokens in one go, cut at the same places: the same sound.
    assert np.abs(audio - say(engine, count, tuple(schedule), window=window)).max(initial=0) <= 1e-4


def test_one_chunk_is_the_offline_pass(engine: S3GenEngine, model: S3GenModel) -> None:
    """The engine's whole path against the modules called by hand."""
    from chatterbox_engine.s3gen.flow import flow_noise

    own = voice()
    with torch.inference_mode():
        row = torch.cat((own.prompt, torch.tensor([tokens(30)])), dim=1)
        noise = flow_noise(torch.tensor([3]), 24, 0, 60, 80)
        mel = model.flow(row, own.feat, own.speaker, noise, final=True)
        (sound,) = model.vocoder.advance([model.vocoder.open(3)], [mel[0]], [True])
    offline = sound.numpy()
    offline[:480] = 0
    offline[480:960] *= (1 + np.cos(np.linspace(np.pi, 0, 480, dtype=np.float32))) / 2
    assert np.abs(say(engine, 30, WHOLE) - offline).max() <= 1e-4
    assert offline.std() > 0.005


@pytest.mark.parametrize("kind", ["engine", "turbo", "chunked"])
def test_each_stream_of_a_batch_equals_itself_alone(kind: str, request: pytest.FixtureRequest) -> None:
    engine: S3GenEngine = request.getfixturevalue(kind)
    counts = (40, 40, 37, 55)
    alone = [say(engine, count, (15, 20), seed=i) for i, count in enumerate(counts)]
    streams = [engine.open(voice(), schedule=(15, 20), paced=False) for _ in counts]
    for i, (stream, count) in enumerate(zip(streams, counts, strict=True)):
        stream.begin_piece(i, 0.0)
        stream.feed(tokens(count), final=True)
        stream.finish()
    together = [spoken(stream) for stream in streams]
    for a, b in zip(alone, together, strict=True):
        assert np.abs(a - b).max() <= 1e-4


@given(
    count=st.integers(0, 40),
    schedule=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    feeds=st.lists(st.integers(0, 10), max_size=5),
)
@settings(max_examples=10)
def test_the_models_own_tokens_stand_around_what_was_spoken(
    turbo: S3GenEngine, count: int, schedule: list[int], feeds: list[int]
) -> None:
    """As if T3 had sampled them, however its tokens come; where T3 had nothing to say, nothing is added."""
    stream = turbo.open(voice(), schedule=tuple(schedule), paced=False)
    stream.begin_piece(3, 0.0)
    rest = tokens(count)
    for size in feeds:
        stream.feed(rest[:size], final=False)
        rest = rest[size:]
    stream.feed(rest, final=True)
    stream.finish()
    audio = spoken(stream)
    assert len(audio) == (960 * (1 + count + 3) if count else 0)
    by_hand = turbo.open(voice(), schedule=tuple(schedule), paced=False)
    by_hand._opening_tokens = by_hand._closing_tokens = ()
    by_hand.begin_piece(3, 0.0)
    by_hand.feed([7, *tokens(count), 4299, 4299, 4299] if count else [], final=True)
    by_hand.finish()
    assert np.abs(audio - spoken(by_hand)).max(initial=0) <= 1e-4


@given(count=st.integers(0, 30), schedule=st.lists(st.integers(1, 20), min_size=1, max_size=3))
@settings(max_examples=10)
def test_the_last_token_is_cropped_where_there_are_more(
    engine: S3GenEngine, cropping: S3GenEngine, count: int, schedule: list[int]
) -> None:
    whole, cropped = (say(one, count, tuple(schedule)) for one in (engine, cropping))
    assert len(cropped) == (960 * max(1, count - 1) if count else 0)
    assert np.abs(whole[: len(cropped)] - cropped).max(initial=0) <= 1e-4


def test_pieces_follow_one_another_with_their_pauses(engine: S3GenEngine) -> None:
    stream = engine.open(voice(), schedule=(15,), paced=False)
    stream.begin_piece(3, 0.25)
    stream.feed(tokens(20), final=True)
    stream.begin_piece(4, 0.0)
    stream.feed([], final=True)  # T3 had nothing to say
    stream.begin_piece(5, 0.0)
    stream.feed(tokens(10), final=True)
    stream.finish()
    audio = spoken(stream)
    first, pause, rest = np.split(audio, (20 * 960, 20 * 960 + 6000))
    assert np.abs(first - say(engine, 20, (15,))).max() <= 1e-4
    assert not pause.any()
    assert len(rest) == 10 * 960
    assert not rest[:480].any()  # each piece fades in by itself


def test_seams_do_not_click(engine: S3GenEngine) -> None:
    """No step between samples at a seam is beyond what the signal does by itself elsewhere."""
    audio = say(engine, 120, (10,))
    steps = np.abs(np.diff(audio[960:]))
    edges = [960 * 10 * k - 20 * 480 - 960 for k in range(3, 11)]  # HiFT holds 20 frames back
    at_seams = np.array([steps[edge - 2 : edge + 2].max() for edge in edges])
    assert at_seams.max() <= np.quantile(steps, 0.9999)


def test_the_watermark_is_in_streamed_audio(model: S3GenModel) -> None:
    marker = Watermarker()
    engine = S3GenEngine(model, S3GenSwitches(), marker)
    engine.start()
    try:
        plain = S3GenEngine(model, S3GenSwitches(), None)
        plain.start()
        for seconds in (2, 4):
            audio = say(engine, 25 * seconds, (20, 25))
            assert len(audio) == 24_000 * seconds
            assert marker.detect(audio) >= 0.99
            assert marker.detect(say(plain, 25 * seconds, (20, 25))) < 0.5
        plain.stop()
    finally:
        engine.stop()


def test_a_reader_who_does_not_read_holds_its_own_stream_back(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(queue_chunks=2), None)
    engine.start()
    try:
        slow = engine.open(voice(), schedule=(5,), paced=False)
        slow.begin_piece(3, 0.0)
        slow.feed(tokens(200), final=True)
        slow.finish()
        quick = say(engine, 60, (5,))
        assert len(quick) == 60 * 960
        time.sleep(0.1)
        assert slow.audio.unread == 2
        assert len(spoken(slow)) == 200 * 960
    finally:
        engine.stop()


def test_a_paced_stream_waits_for_its_listener(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(max_lead_s=1.0, queue_chunks=100), None)
    engine.start()
    try:
        stream = engine.open(voice(), schedule=(10,))
        stream.begin_piece(3, 0.0)
        stream.feed(tokens(250), final=True)
        stream.finish()
        begin = time.monotonic()
        audio = spoken(stream)
        lead = len(audio) / 24_000 - (time.monotonic() - begin)
        assert lead <= 1.0 + 1.0  # one second ahead, and at most the last chunk and what HiFT held back
    finally:
        engine.stop()


def run_dry(engine: S3GenEngine) -> SpeechStream:
    """A stream whose listener has played all that there was."""
    stream = engine.open(voice())
    stream.begin_piece(3, 0.0)
    stream.feed(tokens(28), final=False)
    stream.audio.read(timeout=20)
    while stream.due > time.monotonic():
        time.sleep(0.01)
    return stream


def test_a_listener_who_runs_dry_is_counted_and_keeps_others_out(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(chunk_schedule=(25,)), None)
    engine.start()
    try:
        stream = run_dry(engine)
        with pytest.raises(Overloaded):
            engine.open(voice())
        engine.open(voice(), paced=False).audio.close()  # nobody listens to it as it comes
        engine.open(voice(), goes_on=True).audio.close()  # it has been let in before
        stream.feed(tokens(12), final=True)
        stream.finish()
        spoken(stream)
        assert engine.stalls == stream.stalls >= 1
        assert engine.stalled_seconds == stream.stalled_s > 0
        assert (engine.admitted, engine.refused) == (3, 1)
        engine.open(voice()).audio.close()
    finally:
        engine.stop()


@pytest.mark.parametrize("paced", [True, False])
def test_where_there_is_no_memory_for_another_it_is_turned_away(
    model: S3GenModel, paced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatterbox_engine.s3gen.model.free_bytes", lambda device: 10**6)
    switches = S3GenSwitches(flow_attention="chunked")
    engine = S3GenEngine(model, switches, None)
    engine.start()
    try:
        first = engine.open(voice(), paced=paced)
        assert engine.full()
        with pytest.raises(Overloaded):
            engine.open(voice(), paced=paced)
        first.audio.close()
        assert not engine.full()
        assert len(say(engine, 10, WHOLE)) == 9600
    finally:
        engine.stop()
    by_places = S3GenEngine(model, switches.model_copy(update={"admission": "places"}), None)
    by_places.start()
    try:
        for _ in range(2):
            by_places.open(voice())
    finally:
        by_places.stop()


def test_all_places_may_be_given_whoever_runs_dry(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(chunk_schedule=(25,), admission="places", max_streams=2), None)
    engine.start()
    try:
        run_dry(engine)
        engine.open(voice())
        with pytest.raises(Overloaded):
            engine.open(voice())
    finally:
        engine.stop()


def test_who_listens_faster_runs_dry_sooner(engine: S3GenEngine) -> None:
    streams = [engine.open(voice(), speed=speed) for speed in (1.0, 2.0)]
    for stream in streams:
        stream.emit(np.zeros(10 * 24_000, np.float32), final=False)
        stream.audio.close()
    assert 4 < streams[0].due - streams[1].due < 6


def test_closing_frees_the_place(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(max_streams=1), None)
    engine.start()
    try:
        stream = engine.open(voice())
        stream.begin_piece(3, 0.0)
        stream.feed(tokens(100), final=False)
        with pytest.raises(Overloaded):
            engine.open(voice())
        engine.open(voice(), goes_on=True).audio.close()
        stream.audio.close()
        assert engine.running == 0  # whatever call it is still in
        assert len(say(engine, 10, WHOLE)) == 9600
    finally:
        engine.stop()


def test_a_stopped_engine_ends_its_streams(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(), None)
    engine.start()
    stream = engine.open(voice())
    engine.stop()
    with pytest.raises(EngineDead):
        spoken(stream)
    with pytest.raises(EngineDead):
        engine.open(voice())


@pytest.mark.parametrize("error", [MemoryError("of the kernels"), torch.OutOfMemoryError("of the device")])
def test_a_call_that_finds_no_memory_ends_its_own_streams(model: S3GenModel, error: Exception) -> None:
    engine = S3GenEngine(model, S3GenSwitches(flow_attention="chunked"), None)
    mels: Any = engine._mels
    exhausted = voice(40)

    class Scarce(ChunkedMels):
        def __call__(self, work: list[Work]) -> list[torch.Tensor]:
            if any(item.stream.voice is exhausted and item.chunk.piece.done for item in work):
                raise error
            return super().__call__(work)

    mels.__class__ = Scarce
    engine.start()
    try:
        streams = [engine.open(own, schedule=(10,)) for own in (voice(), exhausted)]
        for stream in streams:
            stream.begin_piece(0, 0.0)
            stream.feed(tokens(30), final=True)
            stream.finish()
        assert len(spoken(streams[0])) == 30 * 960
        with pytest.raises(Overloaded, match="no memory"):
            spoken(streams[1])
        assert engine.running == 0
        assert len(say(engine, 10, WHOLE)) == 9600
    finally:
        engine.stop()


@pytest.mark.parametrize("part", ["flow", "vocoder"])
@pytest.mark.parametrize(("error", "kind"), [
    (ValueError("poisoned"), SpeechFailed), (torch.OutOfMemoryError("CUDA out of memory"), Overloaded),
])  # fmt: skip
def test_what_fails_for_one_stream_ends_it_alone(
    model: S3GenModel, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception, kind: type[Exception]
) -> None:
    """In the flow also where it was in one call with others; in the vocoder, which has gone on, with its call."""
    engine = S3GenEngine(model, S3GenSwitches(chunk_schedule=(10,)), None)
    own: Any = {"flow": WindowMels.__call__, "vocoder": S3GenEngine._vocoded}[part]

    def fails(self: Any, work: list[Work], *rest: Any) -> Any:
        if any(item.chunk.piece.seed == 13 for item in work):
            raise error
        return own(self, work, *rest)

    monkeypatch.setattr(*{"flow": (WindowMels, "__call__"), "vocoder": (S3GenEngine, "_vocoded")}[part], fails)
    streams = [engine.open(voice(), paced=False) for _ in range(4)]
    with torch.inference_mode():
        for seed, stream in enumerate(streams, 11):
            stream.begin_piece(seed, 0.0)
            stream.feed(tokens(30), final=True)
            stream.finish()
        while engine.has_work():
            engine.step()
    told = []
    for stream in streams:
        try:
            told.append(len(spoken(stream)))
        except ChatterboxError as raised:
            told.append(type(raised))
    whole = 30 * 960
    assert told == ([whole, whole, kind, whole] if part == "flow" else [kind] * 4)
    assert engine.failed == (0 if part == "flow" else 1)


@pytest.mark.parametrize(("error", "survives"), [
    (ValueError("whatever is asked"), 7), (torch.AcceleratorError("the device is lost"), 0),
])  # fmt: skip
def test_an_engine_that_can_compute_nothing_ends(
    model: S3GenModel, monkeypatch: pytest.MonkeyPatch, error: Exception, survives: int
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(WindowMels, "__call__", fails)
    engine = S3GenEngine(model, S3GenSwitches(), None)
    engine.start()
    try:
        for _ in range(survives):
            with pytest.raises(SpeechFailed):
                say(engine, 10, WHOLE)
        with pytest.raises(EngineDead, match=str(error)):
            say(engine, 10, WHOLE)
    finally:
        engine.stop()


PIECES = (([*range(100, 137)], 0.1), ([], 0.05), ([*range(500, 540)], 0.0))
"""Tokens of each piece of an utterance, and the pause after it."""


def begun(engine: S3GenEngine, cut: int) -> tuple[np.ndarray, Progress]:
    """The audio that a listener has of an utterance once `cut` chunks have come, and where it stands then, when T3 is
    in its last piece."""
    stream = engine.open(voice(), schedule=(5, 9))
    for number, (said, pause) in enumerate(PIECES):
        stream.begin_piece(number, pause)
        stream.feed(said[:30], final=False, words=words(said)[:4])
        if number < 2:
            stream.feed(said[30:], final=True, words=words(said)[4:])
    parts: list[np.ndarray] = []
    while len(parts) < cut:
        parts += stream.audio.read(timeout=20)[0]
        stream.words()
    audio = np.concatenate(parts)
    progress = stream.progress(len(audio))
    stream.audio.close()
    return audio, progress


def words(said: list[int]) -> list[Begun]:
    return [Begun(f"{said[token]}", token) for token in range(0, len(said), 6)]


def gone_on(engine: S3GenEngine, heard: int, progress: Progress | None) -> tuple[np.ndarray, list[SpokenWord]]:
    """The rest, or all of it, and its words."""
    interrupted = None if progress is None else Interrupted(progress, heard, -0.5)
    stream = engine.open(voice(), schedule=(5, 9), interrupted=interrupted)
    first = progress.piece if progress else 0
    for number, (said, pause) in list(enumerate(PIECES))[first:]:
        known = progress if progress and number == first else Progress(0, 0, 0)
        assert list(known.tokens) == said[: len(known.tokens)]
        stream.begin_piece(number, pause)
        stream.feed(known.tokens, final=known.complete, words=known.words)
        if not known.complete:
            stream.feed(said[len(known.tokens) :], final=True, words=words(said)[len(known.words) :])
    stream.finish()
    return spoken(stream), list(stream.words())


@pytest.mark.parametrize("kind", ["engine", "chunked", "turbo", "cropping"])
def test_another_engine_goes_on_where_one_broke_off(request: pytest.FixtureRequest, kind: str) -> None:
    """Wherever that was: with the same samples, the words that were not told yet, and the silence counted."""
    like: S3GenEngine = request.getfixturevalue(kind)
    engine = S3GenEngine(like._model, like._switches.model_copy(update={"hurry_s": None}), None)
    engine.start()
    whole, all_words = gone_on(engine, 0, None)
    cuts = set()
    for cut in range(1, 8):
        heard, progress = begun(engine, cut)
        cuts.add((progress.piece, len(progress.ends)))
        stalls = engine.stalls
        rest, rest_words = gone_on(engine, len(heard), progress)
        np.testing.assert_allclose(np.concatenate((heard, rest)), whole, rtol=0, atol=1e-4)
        assert engine.stalls > stalls
        told = len(all_words) - len(rest_words)
        assert rest_words == all_words[told:]
        assert all(word.sample >= len(heard) - 9 * 960 for word in rest_words)
    engine.stop()
    assert len(cuts) > 3


def test_one_who_was_interrupted_finds_a_place(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(max_streams=1), None)
    engine.start()
    try:
        engine.open(voice())
        with pytest.raises(Overloaded):
            engine.open(voice())
        engine.open(voice(), interrupted=Interrupted(Progress(1, 4800, 1), 4800, 1.0))
    finally:
        engine.stop()


def test_a_chunk_is_made_of_what_was_kept(chunked: S3GenEngine, engine: S3GenEngine) -> None:
    """Two schedules that begin alike begin with the same sound, whatever comes after; a model asks for it by itself."""
    audio, other = say(chunked, 60, (20, 10)), say(chunked, 60, (20, 30))
    held = 20 * 480  # HiFT's look-ahead
    assert np.array_equal(audio[: 20 * 960 - held], other[: 20 * 960 - held])
    assert np.abs(audio - say(engine, 60, (20, 10))).max() > 1e-3  # an approximation for weights like these
    spec = SPEC.model_copy(update={"chunked": True})
    asking = S3GenEngine(S3GenModel(spec, RandomWeights(0), torch.float32, CPU), S3GenSwitches(), None)
    asking.start()
    try:
        assert np.abs(say(asking, 60, (20, 10)) - audio).max() <= 1e-4
    finally:
        asking.stop()


def test_a_shorter_prompt_is_the_first_part_of_a_voices(model: S3GenModel, engine: S3GenEngine) -> None:
    long = voice(40)
    shortened = S3GenEngine(model, S3GenSwitches(prompt_seconds=1), None)
    shortened.start()
    try:
        made, whole, part = (
            say(own, 20, WHOLE, speaking=given)
            for own, given in ((shortened, long), (engine, long), (engine, long.of(25)))
        )
    finally:
        shortened.stop()
    np.testing.assert_array_equal(made, part)
    assert np.abs(made - whole).max() > 1e-4


def test_an_idle_engine_rests_and_comes_back(model: S3GenModel) -> None:
    engine = S3GenEngine(model, S3GenSwitches(), None, idle_s=0.2)
    engine.start()
    try:
        expected = say(engine, 12, (5,))
        end = time.monotonic() + 10
        while not engine.resting and time.monotonic() < end:
            time.sleep(0.02)
        assert engine.resting
        assert np.array_equal(say(engine, 12, (5,)), expected)
    finally:
        engine.stop()
