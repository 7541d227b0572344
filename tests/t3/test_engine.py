"""T3's engine against chatterbox-tts, alone and in company; joining, leaving, cancelling, waiting."""

import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from chatterbox_engine.config import T3Switches
from chatterbox_engine.errors import ChatterboxError, EngineDead, InvalidRequest, Overloaded, SpeechFailed
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import RandomWeights, StateDictWeights

TOKENS = 32
SHORT = [255, 20, 31, 42, 17, 0]
LONG = [255, *(1 + i * 37 % 250 for i in range(180)), 0]


@pytest.fixture(scope="module")
def model(reference_t3: Any) -> T3Model:
    weights = StateDictWeights(reference_t3.state_dict(), "the reference")
    return T3Model.from_weights(T3Spec(layers=2), weights, 700, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def voice(reference_voice: Any) -> T3Voice:
    return T3Voice("v", reference_voice.speaker, reference_voice.prompt)


def started(model: T3Model, **switches: Any) -> T3Engine:
    engine = T3Engine(model, T3Switches(max_positions=700, **switches), max_waiting=16)
    engine.start()
    return engine


@pytest.fixture
def exact(model: T3Model) -> Iterator[T3Engine]:
    engine = started(model, exact=True)
    yield engine
    engine.stop()


@pytest.fixture
def batched(model: T3Model) -> Iterator[T3Engine]:
    engine = started(model)
    yield engine
    engine.stop()


def reference_tokens(t3: Any, voice: T3Voice, text: list[int], params: SamplingParams) -> list[int]:
    """What the unmodified T3 yields, without the tokens that carry no sound."""
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    cond = T3Cond(
        speaker_emb=voice.speaker,
        cond_prompt_speech_tokens=voice.prompt,
        emotion_adv=params.exaggeration * torch.ones(1, 1, 1),
    )
    torch.manual_seed(params.seed)
    tokens = t3.inference(
        t3_cond=cond,
        text_tokens=torch.tensor([text, text]),
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        cfg_weight=params.cfg_weight,
        repetition_penalty=params.repetition_penalty,
        min_p=params.min_p,
        top_p=params.top_p,
    )[0].tolist()
    return [token for token in tokens if token < 6561]


def drain(stream: Mailbox[int]) -> list[int]:
    tokens, _ = stream.read(10_000, timeout=120)
    return tokens


CASES = [
    (SHORT if seed % 2 else LONG, SamplingParams(
        seed=seed, cfg_weight=(0.3, 0.5, 1.0)[seed % 3], max_new_tokens=TOKENS, exaggeration=0.25 + seed / 20,
        top_p=0.9 if seed % 5 == 0 else 1.0, temperature=1.0 if seed % 4 == 0 else 0.8,
    ))
    for seed in range(10)
]  # fmt: skip


def test_tokens_equal_the_reference_alone_and_in_a_mixed_batch(
    exact: T3Engine, reference_t3: Any, voice: T3Voice
) -> None:
    expected = [reference_tokens(reference_t3, voice, text, params) for text, params in CASES]
    alone = [drain(exact.submit(text, voice, params)) for text, params in CASES]
    assert alone == expected

    streams = []
    for text, params in CASES:  # at most 8 run; each joins when the others are at different steps
        streams.append(exact.submit(text, voice, params))
        time.sleep(0.02)
    assert [drain(stream) for stream in streams] == expected


def test_a_batch_computes_what_each_stream_computes_alone(batched: T3Engine, voice: T3Voice) -> None:
    cases = [(text, params.model_copy(update={"cfg_weight": w, "max_new_tokens": 24}))
             for (text, params), w in zip(CASES[:6], (0.0, 0.5, 0.0, 1.0, 0.3, 0.5), strict=True)]  # fmt: skip
    alone = [drain(batched.submit(text, voice, params)) for text, params in cases]
    together = [batched.submit(text, voice, params) for text, params in cases]
    assert [drain(stream) for stream in together] == alone
    assert all(len(tokens) > 10 for tokens in alone)


def test_no_cfg_is_one_row_and_means_the_conditioned_half(batched: T3Engine, voice: T3Voice) -> None:
    """cfg_weight 0 fails in the reference; its meaning is the limit of small weights."""
    nearly = SamplingParams(seed=3, cfg_weight=1e-7, max_new_tokens=24)
    without = nearly.model_copy(update={"cfg_weight": 0.0})
    assert drain(batched.submit(SHORT, voice, without)) == drain(batched.submit(SHORT, voice, nearly))


@pytest.mark.parametrize("kind", ["exact", "batched"])
def test_another_engine_goes_on_after_what_was_spoken(
    kind: str, request: pytest.FixtureRequest, voice: T3Voice
) -> None:
    """In company, too: the same tokens, as if nobody had been interrupted."""
    engine: T3Engine = request.getfixturevalue(kind)
    found = 0
    for seed in range(100):
        text, params = CASES[seed % len(CASES)]
        params = params.model_copy(update={"max_new_tokens": 8, "seed": seed})
        whole = drain(engine.submit(text, voice, params))
        if len(whole) < 8:  # one of those drawn has no sound, so that nobody could know of it
            continue
        others = [engine.submit(text, voice, params, spoken=tuple(whole[:cut])) for cut in (1, 4, 7)]
        assert [drain(stream) for stream in others] == [whole[1:], whole[4:], whole[7:]]
        found += 1
        if found == 4:
            return
    pytest.fail("too few streams had a sound for each token")


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


def test_cancel_frees_the_slot_and_leaves_the_others_alone(batched: T3Engine, voice: T3Voice) -> None:
    params = SamplingParams(seed=5, max_new_tokens=200)
    expected = drain(batched.submit(SHORT, voice, params))
    streams = [batched.submit(LONG, voice, params), batched.submit(SHORT, voice, params)]
    streams[1].read(5, timeout=60)
    streams[0].close()
    wait_for(lambda: batched.running == 1)
    streams[1].read(5, timeout=60)
    streams[1].close()
    wait_for(lambda: batched.running == 0)
    assert drain(batched.submit(SHORT, voice, params)) == expected


def test_a_reader_who_does_not_read_slows_its_own_stream_only(model: T3Model, voice: T3Voice) -> None:
    engine = started(model, queue_tokens=8)
    try:
        params = SamplingParams(seed=1, max_new_tokens=60)
        slow = engine.submit(SHORT, voice, params)
        wait_for(lambda: slow.unread >= 8)
        quick = engine.submit(SHORT, voice, params)
        read: list[int] = []
        final = False
        while not final:
            tokens, final = quick.read(4, timeout=60)
            read += tokens
        assert slow.unread <= 9
        late: list[int] = []
        final = False
        while not final:
            tokens, final = slow.read(4, timeout=60)
            late += tokens
        assert late == read
    finally:
        engine.stop()


def test_long_prompts_do_not_stall_running_streams(model: T3Model, voice: T3Voice) -> None:
    """A prompt is prefilled in parts, and running streams get a token beside each of them."""
    engine = T3Engine(model, T3Switches(max_positions=700, prefill_positions=32))  # stepped by hand
    params = SamplingParams(seed=1, max_new_tokens=400)
    with torch.inference_mode():
        engine.submit(SHORT, voice, params)
        engine.step()
        late = engine.submit(LONG, voice, params)
        steps = 0
        while late.unread == 0:
            before = engine.tokens
            engine.step()
            assert engine.tokens > before
            steps += 1
    assert steps >= 2 * len(LONG) // 32


def test_what_does_not_fit_is_refused(batched: T3Engine, voice: T3Voice) -> None:
    with pytest.raises(InvalidRequest, match="positions"):
        batched.submit(LONG, voice, SamplingParams(max_new_tokens=700))
    with pytest.raises(InvalidRequest, match="tokens"):
        batched.submit(LONG * 20, voice, SamplingParams())


@pytest.mark.parametrize("exact", [False, True])
def test_a_stream_may_last_to_the_last_position_and_no_longer(voice: T3Voice, exact: bool) -> None:
    """One that never stops must not read behind the table of positions, which would end the engine."""
    spec = T3Spec(layers=1, max_speech_tokens=150)
    model = T3Model.from_weights(spec, RandomWeights(0), 500, torch.float32, torch.device("cpu"))
    engine = T3Engine(model, T3Switches(max_positions=500, exact=exact))
    engine.start()
    try:
        with pytest.raises(InvalidRequest, match="at most 150 tokens"):
            engine.submit(SHORT, voice, SamplingParams(max_new_tokens=151))
        params = SamplingParams(max_new_tokens=150, seed=1)
        whole = engine.submit(SHORT, voice, params)
        tokens, final = whole.read(1000, timeout=60)
        assert (engine.tokens, final) == (150, True)
        _, final = engine.submit(SHORT, voice, params, spoken=tuple(tokens[:100])).read(1000, timeout=60)
        assert final
        engine.check_alive()
    finally:
        engine.stop()


@pytest.mark.parametrize("form", ["int8", "int8_dynamic"])
def test_quantised_weights_rest_and_come_back(voice: T3Voice, form: Literal["int8", "int8_dynamic"]) -> None:
    spec = T3Spec(layers=1)
    made = spec, RandomWeights(0), 500, torch.float32, torch.device("cpu")
    model = T3Model.from_weights(*made, form, "plain")
    engine = T3Engine(model, T3Switches(max_positions=500, cpu_kernels="plain"), idle_s=0.05)
    engine.start()
    try:
        params = SamplingParams(max_new_tokens=5, seed=1)
        before = engine.submit(SHORT, voice, params).read(10, timeout=60)
        end = time.monotonic() + 60
        while not engine.resting and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.resting
        assert engine.submit(SHORT, voice, params).read(10, timeout=60) == before
    finally:
        engine.stop()


UNKNOWN = [255, 9999, 0]
"""Of a number that the model has no embedding for."""
NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def served(engine: T3Engine, streams: list[Mailbox[int]]) -> list[list[int] | Exception]:
    """What each is told, when the engine, stepped by hand, has nothing left to do."""
    told: list[list[int] | Exception] = []
    with torch.inference_mode():
        while engine.has_work():
            engine.step()
    for stream in streams:
        try:
            told.append(drain(stream))
        except ChatterboxError as error:
            told.append(error)
    return told


def poison(engine: T3Engine, part: str, error: Exception, counts: set[int]) -> None:
    """Have one of the runner's parts fail where it is given prompts, or logits, of one of these numbers."""
    own = getattr(engine.runner, part)

    def fails(*given: Any) -> Any:
        if counts & ({len(given[0])} if part == "draw_first" else set(map(len, given[2]))):
            raise error
        return own(*given)

    setattr(engine.runner, part, fails)


@pytest.mark.parametrize(("error", "kind"), [
    (None, SpeechFailed), (ValueError("poisoned"), SpeechFailed), (NO_MEMORY, Overloaded),
    (torch.OutOfMemoryError("CUDA out of memory"), Overloaded),
])  # fmt: skip
def test_what_fails_for_one_text_ends_its_stream_alone(
    model: T3Model, voice: T3Voice, error: Exception | None, kind: type[Exception]
) -> None:
    """As it is embedded (None), or in one call with others: they get what they would have got."""
    engine = T3Engine(model, T3Switches(max_positions=700))
    params = SamplingParams(seed=5, max_new_tokens=12)
    text = [255, *range(1, 9), 0]
    if error is not None:
        poison(engine, "prefill", error, {model.prompt_length(model.voice_positions(150), len(text))})
    texts = [LONG, SHORT, UNKNOWN if error is None else text, SHORT, LONG]
    told = served(engine, [engine.submit(own, voice, params) for own in texts])
    (expected,) = served(engine, [engine.submit(SHORT, voice, params)])
    assert isinstance(told[2], kind)
    assert told[1] == told[3] == expected
    assert told[0] == told[4]
    assert len(told[0]) > 6
    assert (engine.running, engine.waiting, engine.failed) == (0, 0, 0)


def test_what_fails_as_first_tokens_are_drawn_ends_those_who_were_to_have_them(model: T3Model, voice: T3Voice) -> None:
    engine = T3Engine(model, T3Switches(max_positions=700))
    poison(engine, "draw_first", ValueError("poisoned"), {2})
    params = SamplingParams(seed=5, max_new_tokens=12)
    both = served(engine, [engine.submit(SHORT, voice, params) for _ in range(2)])
    assert all(isinstance(told, SpeechFailed) for told in both)
    (alone,) = served(engine, [engine.submit(SHORT, voice, params)])
    assert isinstance(alone, list)
    assert len(alone) > 6


@pytest.mark.parametrize(("error", "survives"), [
    (ValueError("whatever is asked"), 7), (NO_MEMORY, 7), (torch.AcceleratorError("the device is lost"), 0),
])  # fmt: skip
def test_an_engine_that_can_compute_nothing_ends(
    model: T3Model, voice: T3Voice, error: Exception, survives: int
) -> None:
    engine = T3Engine(model, T3Switches(max_positions=700))
    poison(engine, "prefill", error, set(range(700)))
    for _ in range(survives):
        (told,) = served(engine, [engine.submit(SHORT, voice, SamplingParams(max_new_tokens=4))])
        assert isinstance(told, ChatterboxError)
    with pytest.raises(type(error)):
        served(engine, [engine.submit(SHORT, voice, SamplingParams(max_new_tokens=4))])


def test_a_full_queue_is_overloaded_and_a_stopped_engine_is_dead(model: T3Model, voice: T3Voice) -> None:
    engine = T3Engine(model, T3Switches(max_positions=700, max_streams=1), max_waiting=1)
    engine.start()
    params = SamplingParams(max_new_tokens=300)
    first = engine.submit(SHORT, voice, params)
    first.read(1, timeout=60)
    _, refused = engine.submit(SHORT, voice, params), engine.submit(SHORT, voice, params)
    with pytest.raises(Overloaded):
        refused.read(1, timeout=60)
    assert (engine.admitted, engine.refused, engine.waiting) == (3, 1, 1)
    assert engine.wait_s() > 0
    engine.stop()
    with pytest.raises(EngineDead):
        engine.submit(SHORT, voice, params)
    first.read(10_000, timeout=60)  # what was made before the end
    with pytest.raises(EngineDead):
        first.read(1, timeout=60)


def test_slack_is_what_was_drawn_beyond_what_was_heard(model: T3Model, voice: T3Voice) -> None:
    engine = T3Engine(model, T3Switches(max_positions=700))  # stepped by hand
    params = SamplingParams(seed=1, max_new_tokens=400)
    with torch.inference_mode():
        engine.submit(SHORT, voice, params)
        engine.submit(SHORT, voice, params, tokens_wanted=300, spoken=(1, 2, 3), slack_s=1000.0)
        engine.step()
        (later,) = engine.slacks_s()  # nobody has heard the first one yet
        assert 900 < later < 1001
        while engine.tokens < 80:
            engine.step()
        first, later = engine.slacks_s()
        assert first < 2  # seconds of speech since its first one
