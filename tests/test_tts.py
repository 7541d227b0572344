"""OptimizedChatterboxTTS on the demo: the drop-in calls, what they give, what they refuse and what they free."""

import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chatterbox_engine import (
    EngineConfig,
    OptimizedChatterboxMultilingualTTS,
    OptimizedChatterboxTTS,
    OptimizedChatterboxTurboTTS,
)
from chatterbox_engine.errors import EngineDead, InvalidRequest
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.text import split
from chatterbox_engine.types import SAMPLES_PER_TOKEN
from chatterbox_engine.voice import Voice

TEXT = "The quick brown fox jumps over the lazy dog."
LONG = " ".join(f"Sentence number {i} is as long as the others are." for i in range(9))
PLAIN = EngineConfig.profile(
    watermark=False, t3={"precision": "fp32"}, s3gen={"precision": "fp32", "cfm_steps": 2, "queue_chunks": 2}
)


@pytest.fixture(scope="module")
def tts() -> Iterator[OptimizedChatterboxTTS]:
    tts = OptimizedChatterboxTTS.from_pretrained("cpu", model="dummy:tiny", optimizations={"s3gen": {"cfm_steps": 2}})
    yield tts
    tts.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[OptimizedChatterboxTTS]:
    """Without the watermark, so that chunks come out as they are made."""
    tts = OptimizedChatterboxTTS.from_pretrained("cpu", PLAIN, model="dummy:tiny")
    yield tts
    tts.close()


def sound(tts: OptimizedChatterboxTTS, text: str = TEXT, **settings: Any) -> Tensor:
    return torch.cat([chunk for chunk, _ in tts.generate_stream(text, **settings)], dim=1)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def idle(tts: OptimizedChatterboxTTS) -> bool:
    t3, s3gen = tts._t3.engine, tts._s3gen.engine
    return t3.running == t3.waiting == s3gen.running == 0


def test_generate_collects_the_stream(tts: OptimizedChatterboxTTS) -> None:
    wav = tts.generate(TEXT, seed=3, max_new_tokens=30)
    tokens = tts.speech_tokens(TEXT, seed=3, max_new_tokens=30)
    assert (wav.dtype, wav.shape, tts.sr) == (torch.float32, (1, len(tokens) * SAMPLES_PER_TOKEN), 24_000)
    assert wav.std() > 0.001
    assert wav.abs().max() <= 1.0
    assert (wav - sound(tts, seed=3, max_new_tokens=30, chunk_size=10**6)).abs().max() <= 1e-4
    first, second = (sound(tts, seed=3, max_new_tokens=30, chunk_size=8) for _ in range(2))
    assert first.shape == wav.shape
    assert (first - second).abs().max() <= 1e-4


def test_the_positional_parameters_are_the_families_own() -> None:
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS
    from chatterbox.tts import ChatterboxTTS
    from chatterbox.tts_turbo import ChatterboxTurboTTS

    pairs: list[tuple[Any, Any]] = [
        (OptimizedChatterboxTTS, ChatterboxTTS),
        (OptimizedChatterboxMultilingualTTS, ChatterboxMultilingualTTS),
        (OptimizedChatterboxTurboTTS, ChatterboxTurboTTS),
    ]
    for ours, reference in pairs:
        theirs = list(inspect.signature(reference.generate).parameters)
        for method in (ours.generate, ours.generate_stream):
            own = inspect.signature(method).parameters
            positional = [name for name, parameter in own.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
            assert positional == theirs
            assert all(own[name].default is None for name in theirs[2:])
            assert {"seed", "max_new_tokens", "language_id", "top_k"} <= set(own)
        prepare = inspect.signature(reference.prepare_conditionals).parameters
        assert list(inspect.signature(ours.prepare_conditionals).parameters)[: len(prepare)] == list(prepare)


def test_none_is_the_families_default(tts: OptimizedChatterboxTTS) -> None:
    from chatterbox.tts import ChatterboxTTS

    parameters = inspect.signature(ChatterboxTTS.generate).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if type(parameter.default) is float}
    assert len(defaults) == 6
    expected = tts.speech_tokens(TEXT, seed=5, max_new_tokens=25)
    assert torch.equal(tts.speech_tokens(TEXT, seed=5, max_new_tokens=25, **defaults), expected)
    cold = {"temperature": 0.1}  # repeats itself, if nothing forbids it
    for name, value in {**dict.fromkeys(defaults, 0.3), "repetition_penalty": 3.0, "exaggeration": 0.0}.items():
        base = cold if name == "repetition_penalty" else {}
        without, changed = (tts.speech_tokens(TEXT, seed=5, max_new_tokens=25, **{**base, **change})
                            for change in ({}, {name: value}))  # fmt: skip
        assert not torch.equal(changed, without), f"{name} has no effect"


@pytest.mark.parametrize("chunk_size", [20, 33])
def test_chunks_have_the_size_asked_for(plain: OptimizedChatterboxTTS, chunk_size: int) -> None:
    """HiFT holds the last 20 frames back until it sees what follows them."""
    tokens = len(plain.speech_tokens(LONG[:200], seed=1, max_new_tokens=110))
    chunks = [chunk for chunk, _ in plain.generate_stream(LONG[:200], seed=1, max_new_tokens=110,
                                                          chunk_size=chunk_size)]  # fmt: skip
    sizes = [chunk.shape[1] for chunk in chunks]
    assert len(sizes) > 2
    assert sizes[0] == chunk_size * SAMPLES_PER_TOKEN - 20 * 480
    assert set(sizes[1:-1]) == {chunk_size * SAMPLES_PER_TOKEN}
    assert sum(sizes) == tokens * SAMPLES_PER_TOKEN


def test_the_context_window_is_heeded(plain: OptimizedChatterboxTTS) -> None:
    settings: dict[str, Any] = {"seed": 1, "max_new_tokens": 60, "chunk_size": 20}
    whole = sound(plain, **settings)
    wide, none = (sound(plain, **settings, context_window=window) for window in (1000, 0))
    assert (wide - whole).abs().max() <= 1e-4
    assert none.shape == whole.shape
    assert (none - whole).abs().max() > 1e-3


def test_metrics_are_plausible(plain: OptimizedChatterboxTTS) -> None:
    begin = time.monotonic()
    metrics = []
    samples = []
    for chunk, measured in plain.generate_stream(TEXT, seed=1, max_new_tokens=70, chunk_size=20):
        metrics.append(measured)
        samples.append(chunk.shape[1])
    took = time.monotonic() - begin
    assert [m.chunk_count for m in metrics] == list(range(1, len(metrics) + 1))
    assert {m.latency_to_first_chunk for m in metrics} == {metrics[0].total_generation_time}
    assert 0 < metrics[0].latency_to_first_chunk <= metrics[-1].total_generation_time <= took
    for i, m in enumerate(metrics):
        assert m.total_audio_duration == pytest.approx(sum(samples[: i + 1]) / 24_000)
        assert m.rtf == pytest.approx(m.total_generation_time / m.total_audio_duration)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": ""}, "input"),
    ({"text": " \n"}, "input"),
    ({"text": None}, "input"),
    ({"text": "a\0b"}, "input"),
    ({"top_k": 50}, "top_k"),
    ({"language_id": "fr"}, "language_id"),
    ({"language_id": ""}, "language_id"),
    ({"exaggeration": 9}, "exaggeration"),
    ({"cfg_weight": -0.1}, "cfg_weight"),
    ({"temperature": 0}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"min_p": 1.1}, "min_p"),
    ({"top_p": 0}, "top_p"),
    ({"repetition_penalty": 0.5}, "repetition_penalty"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": "many"}, "max_new_tokens"),
]
BAD_STREAM: list[tuple[dict[str, Any], str]] = [
    ({"chunk_size": 0}, "chunk_size"),
    ({"chunk_size": 2.5}, "chunk_size"),
    ({"chunk_size": "5"}, "chunk_size"),
    ({"context_window": -1}, "context_window"),
    ({"context_window": 1.5}, "context_window"),
    ({"audio_prompt_path": "/no/such/file.wav"}, "file"),
]


@pytest.mark.parametrize(("change", "param"), BAD)
def test_what_is_wrong_is_refused_by_name(tts: OptimizedChatterboxTTS, change: dict[str, Any], param: str) -> None:
    settings = {"text": TEXT, **change}
    calls: list[Callable[..., Any]] = [tts.generate, tts.generate_stream, tts.speech_tokens]
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            call(**settings)
        assert caught.value.param == param
    assert idle(tts)


@pytest.mark.parametrize(("change", "param"), BAD_STREAM)
def test_a_stream_is_refused_when_it_is_asked_for(
    tts: OptimizedChatterboxTTS, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tts.generate_stream(TEXT, **change)
    assert caught.value.param == param


def test_a_refused_call_leaves_the_voice_as_it_was(tts: OptimizedChatterboxTTS, clip: Path) -> None:
    before = tts._voice
    for change in ({"exaggeration": 9}, {"top_k": 3}, {"text": ""}, {"chunk_size": 0}):
        with pytest.raises(InvalidRequest):
            tts.generate_stream(**{"text": TEXT, "audio_prompt_path": clip, **change})
    assert tts._voice is before


def test_a_text_that_does_not_fit_is_refused(tts: OptimizedChatterboxTTS) -> None:
    with pytest.raises(InvalidRequest, match="positions"):
        tts.speech_tokens(LONG * 4, seed=1, max_new_tokens=1000)
    with pytest.raises(InvalidRequest, match="positions"):
        tts.generate(TEXT, seed=1, max_new_tokens=4000)
    wait_for(lambda: idle(tts))


def test_s3gen_gets_the_speech_tokens_of_each_piece(
    plain: OptimizedChatterboxTTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[list[int]] = []
    begin_piece, feed = SpeechStream.begin_piece, SpeechStream.feed

    def begun(stream: SpeechStream, *args: Any) -> Any:
        pieces.append([])
        return begin_piece(stream, *args)

    def fed(stream: SpeechStream, tokens: list[int], **options: Any) -> None:
        pieces[-1] += tokens
        feed(stream, tokens, **options)

    monkeypatch.setattr(SpeechStream, "begin_piece", begun)
    monkeypatch.setattr(SpeechStream, "feed", fed)
    wav = plain.generate(LONG, seed=11, max_new_tokens=20)
    parts = split(LONG)
    assert len(parts) == 2
    expected = [
        plain.speech_tokens(part.text, seed=derive_seed(11, index), max_new_tokens=20)
        for index, part in enumerate(parts)
    ]
    assert pieces == [tokens.tolist() for tokens in expected]
    assert expected[0].dtype == torch.int64
    assert all((tokens < 6561).all() for tokens in expected)
    pause = round(sum(part.pause_s for part in parts) * 24_000)
    assert wav.shape[1] == sum(len(tokens) for tokens in expected) * SAMPLES_PER_TOKEN + pause


def test_speech_tokens_never_splits(plain: OptimizedChatterboxTTS) -> None:
    settings: dict[str, Any] = {"seed": 1, "max_new_tokens": 30}
    parts = split(LONG)
    whole, first = (plain.speech_tokens(text, **settings) for text in (LONG, parts[0].text))
    assert len(parts) > 1
    assert 0 < len(whole) <= 30  # of two pieces there would be more
    assert not torch.equal(whole, first)


def test_seeds(plain: OptimizedChatterboxTTS) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 20}
    one, again, other = (plain.speech_tokens(TEXT, seed=seed, **settings) for seed in (1, 1, 2**63 - 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(4)
    drawn = [plain.speech_tokens(TEXT, **settings) for _ in range(2)]
    torch.manual_seed(4)
    assert torch.equal(plain.speech_tokens(TEXT, **settings), drawn[0])
    assert not torch.equal(*drawn)


def test_nothing_to_say_is_no_audio(plain: OptimizedChatterboxTTS) -> None:
    """A fifth of the random weights' tokens carry no sound."""
    silent = [seed for seed in range(30) if len(plain.speech_tokens(TEXT, seed=seed, max_new_tokens=1)) == 0]
    assert 0 < len(silent) < 30
    wav = plain.generate(TEXT, seed=silent[0], max_new_tokens=1)
    assert (wav.shape, wav.dtype) == ((1, 0), torch.float32)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_closing_early_frees_both_stages(plain: OptimizedChatterboxTTS, chunk_size: int | None) -> None:
    threads = threading.active_count()
    stream = plain.generate_stream(LONG, seed=1, chunk_size=chunk_size)
    next(stream)
    assert not idle(plain)
    stream.close()
    wait_for(lambda: idle(plain))
    wait_for(lambda: threading.active_count() == threads)


def test_dropping_a_stream_frees_both_stages(plain: OptimizedChatterboxTTS) -> None:
    for chunk, _ in plain.generate_stream(LONG, seed=1, chunk_size=5):
        assert chunk.shape[1]
        break
    gc.collect()
    wait_for(lambda: idle(plain))


def test_a_cancel_reaches_a_piece_that_has_just_begun(
    plain: OptimizedChatterboxTTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader leaves while T3's stream is being opened, before anyone could close it."""
    threads = threading.active_count()
    speak, opening, gone = plain._t3.speak, threading.Event(), threading.Event()

    def late(*args: Any) -> Any:
        opening.set()
        assert gone.wait(20)
        return speak(*args)

    monkeypatch.setattr(plain._t3, "speak", late)
    stream = plain.generate_stream(LONG, seed=1, chunk_size=10**6)
    reader = threading.Thread(target=lambda: list(stream), daemon=True)
    before = plain._t3.engine.tokens
    closed: list[Any] = []
    open_stream = plain._s3gen.open

    def opened(*args: Any, **settings: Any) -> SpeechStream:
        closed.append(open_stream(*args, **settings))
        return closed[-1]

    monkeypatch.setattr(plain._s3gen, "open", opened)
    reader.start()
    assert opening.wait(20)
    closed[0].audio.close()  # the reader's loop ends, and cancels
    reader.join(20)
    gone.set()
    wait_for(lambda: threading.active_count() == threads and idle(plain))
    assert plain._t3.engine.tokens - before < 50


def test_a_stream_that_is_never_started_holds_nothing(plain: OptimizedChatterboxTTS) -> None:
    threads = threading.active_count()
    stream = plain.generate_stream(TEXT)
    time.sleep(0.1)
    assert idle(plain)
    assert threading.active_count() == threads
    stream.close()


def test_threads_may_call_at_once(plain: OptimizedChatterboxTTS) -> None:
    def call(seed: int) -> tuple[Tensor, Tensor]:
        return (
            plain.speech_tokens(TEXT, seed=seed, max_new_tokens=20),
            sound(plain, seed=seed, max_new_tokens=20, chunk_size=10),
        )

    alone = [call(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, range(4)))
    for (tokens, wav), (own_tokens, own_wav) in zip(alone, together, strict=True):
        assert torch.equal(tokens, own_tokens)
        assert wav.shape == own_wav.shape
        assert (wav - own_wav).abs().max() <= 1e-4  # who shares a batch differs from run to run


def test_voices_of_clips(tts: OptimizedChatterboxTTS, clip: Path) -> None:
    before = tts.conds
    assert before is not None
    default = tts.speech_tokens(TEXT, seed=1, max_new_tokens=20)
    tts.prepare_conditionals(clip, exaggeration=0.9)
    prepared = tts.speech_tokens(TEXT, seed=1, max_new_tokens=20, exaggeration=0.9)
    assert not torch.equal(prepared, default)
    assert tts.conds is not None
    assert float(tts.conds.t3.emotion_adv) == pytest.approx(0.9)
    one = tts.generate(TEXT, seed=1, max_new_tokens=20, exaggeration=0.5)
    tts.conds = before
    two = tts.generate(TEXT, audio_prompt_path=str(clip), seed=1, max_new_tokens=20)
    assert (one - two).abs().max() <= 1e-4
    assert float(tts.conds.t3.emotion_adv) == pytest.approx(0.5)
    tts.conds = before


def test_a_call_with_a_clip_speaks_with_it_whatever_other_threads_prepare(
    tts: OptimizedChatterboxTTS, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its voice does not go by way of what all calls share, and the encoder has one caller at a time."""
    before, busy, most = tts.conds, threading.Semaphore(0), 0
    assert before is not None
    voice = tts._need_voice()

    class Encoder:
        def encode(self, clip: np.ndarray, name: str, *, norm_loudness: bool) -> Voice:
            nonlocal most
            busy.release()
            most = max(most, busy._value)
            time.sleep(0.02)
            busy.acquire()
            return replace(voice, name=name)

    def prepared(number: int) -> str:
        return tts._prepared(clip.with_stem(f"voice {number}"), 0.5, True).name

    monkeypatch.setattr("chatterbox_engine.speaker.read_clip", lambda *_, **__: np.zeros(0, np.float32))
    monkeypatch.setattr(tts, "_encoder", Encoder())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepared, range(8))) == [f"voice {number}" for number in range(8)]
    assert most == 1
    monkeypatch.setattr(tts, "_need_voice", lambda: pytest.fail("the shared voice was asked for"))
    assert len(tts.generate(TEXT, audio_prompt_path=str(clip), seed=1, max_new_tokens=5)[0])
    monkeypatch.undo()
    tts.conds = before


def test_conditionals_go_round(tts: OptimizedChatterboxTTS, tmp_path: Path) -> None:
    from chatterbox.tts import Conditionals

    conds = tts.conds
    expected = tts.speech_tokens(TEXT, seed=2, max_new_tokens=20)
    assert isinstance(conds, Conditionals)
    conds.save(tmp_path / "conds.pt")
    tts.conds = Conditionals.load(tmp_path / "conds.pt")
    again = tts.conds
    assert torch.equal(again.t3.speaker_emb, conds.t3.speaker_emb)
    assert torch.equal(again.t3.cond_prompt_speech_tokens, conds.t3.cond_prompt_speech_tokens)
    assert torch.equal(again.t3.emotion_adv, conds.t3.emotion_adv)
    assert all(torch.equal(again.gen[name], conds.gen[name]) for name in ("prompt_token", "prompt_feat", "embedding"))
    assert torch.equal(tts.speech_tokens(TEXT, seed=2, max_new_tokens=20), expected)


@pytest.mark.parametrize("part", ["speaker_emb", "embedding", "prompt_feat"])
def test_another_models_voice_is_refused_and_harms_nobody(plain: OptimizedChatterboxTTS, part: str) -> None:
    before, conds = plain.conds, plain.conds
    assert conds is not None
    if part == "speaker_emb":
        conds.t3.speaker_emb = conds.t3.speaker_emb[:, :7]
    else:
        conds.gen[part] = conds.gen[part][..., :7]
    plain.conds = conds
    with pytest.raises(InvalidRequest, match="another model") as caught:
        plain.generate(TEXT, seed=1, max_new_tokens=5)
    assert caught.value.param == "voice"
    assert before is not None
    plain.conds = before
    assert plain.generate(TEXT, seed=1, max_new_tokens=20).shape[1] > 0
    wait_for(lambda: idle(plain))


def test_config_and_optimizations_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest) as caught:
        OptimizedChatterboxTTS.from_pretrained("cpu", PLAIN, model="dummy:tiny", optimizations={})
    assert caught.value.param == "optimizations"
    with pytest.raises(InvalidRequest, match="make_it_fast"):
        OptimizedChatterboxTTS.from_pretrained("cpu", model="dummy:tiny", optimizations={"make_it_fast": True})


def test_small_queues_do_not_deadlock_and_closing_ends_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatterbox_engine.utterance.ANSWER_S", 20.0)
    monkeypatch.setattr("chatterbox_engine.speaker.ANSWER_S", 20.0)
    small = EngineConfig.profile(watermark=False, t3={"queue_tokens": 4}, s3gen={"cfm_steps": 1, "queue_chunks": 1})
    tts = OptimizedChatterboxTTS.from_pretrained_with_warmup("cpu", small, model="dummy:tiny")
    assert idle(tts)
    assert len(tts.speech_tokens(TEXT, seed=1, max_new_tokens=30)) > 10
    assert tts.generate(TEXT, seed=1, max_new_tokens=30).shape[1] > 0
    stream = tts.generate_stream(LONG, seed=1, chunk_size=5)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(tts.speech_tokens, LONG, seed=1, max_new_tokens=900)
        wait_for(lambda: tts._t3.engine.running == 2)
        made = tts._t3.engine.tokens
        wait_for(lambda: tts._t3.engine.tokens > made + 60)
        tts.close()
        tts.close()
        with pytest.raises(EngineDead):  # and not the tokens made so far, as if they were all
            whole.result(20)
    with pytest.raises(EngineDead):
        list(stream)
    with pytest.raises(EngineDead):
        tts.generate(TEXT)


def test_a_guard_without_heads_to_read_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="follow the text") as caught:
        OptimizedChatterboxTTS.from_pretrained(
            "cpu", model="dummy:tiny", optimizations={"t3": {"alignment_guard": "on"}}
        )
    assert caught.value.param == "t3.alignment_guard"
