"""The order of S3Gen's calls: whoever runs dry first, unless there is time for what does more."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import deadlines
from benchmarks.deadlines import crowd, outcome
from benchmarks.simulation import Devices, Line, Simulation
from chatterbox_engine.s3gen.scheduler import Work, batch, ready
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_TOKEN, S3GenVoice

VOICE = S3GenVoice("v", torch.zeros(1, 10, dtype=torch.int64), torch.zeros(1, 0, 80), torch.zeros(1, 192))
SECOND = np.zeros(SAMPLE_RATE, np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(
    clock: Callable[[], float], *, heard_s: float = 0.0, tokens: int = 25, paced: bool = True,
    schedule: tuple[int, ...] = (25,), hurry_s: float | None = None,
) -> SpeechStream:  # fmt: skip
    """A stream of whose audio the listener has had some, and with `tokens` of a piece here."""
    stream = SpeechStream(
        VOICE, 0, schedule, None, 30.0 if paced else None, None, lambda: None, hurry_s=hurry_s, clock=clock
    )
    stream.begin_piece(0, 0.0)
    if heard := round(heard_s * SAMPLE_RATE):
        stream.emit(np.zeros(heard, np.float32), final=False)
        stream.audio.read()
    stream.feed([0] * tokens, final=False)
    return stream


def chosen(streams: list[SpeechStream], now: float, max_batch: int = 8, seconds: float = 0.1) -> list[SpeechStream]:
    """Only chunks of one length fit together."""
    work = ready(streams, now, lambda stream, chunk: chunk.end, 8)
    taken, _ = batch(work, now, max_batch, lambda item, first: item.tokens == first.tokens, lambda tokens: seconds)
    return [item.stream for item in taken]


def test_first_chunks_come_first_then_whoever_runs_dry_soonest(clock: Clock) -> None:
    late, soon = opened(clock, heard_s=9.0), opened(clock, heard_s=5.0)
    clock.now += 1
    new = opened(clock)
    newer = opened(clock)
    assert chosen([late, soon, newer, new], clock.now, max_batch=1) == [newer]
    assert chosen([late, soon], clock.now, max_batch=1) == [soon]
    assert chosen([late, soon, new], clock.now, max_batch=2) == [new, soon]


def test_a_fuller_call_goes_before_where_there_is_time(clock: Clock) -> None:
    soon = opened(clock, heard_s=3.0, schedule=(10,))
    others = [opened(clock, heard_s=5.0) for _ in range(4)]
    assert set(chosen([soon, *others], clock.now)) == set(others)
    clock.now += 2.0  # a second is left: two calls of 0.4 s and the margin do not fit
    assert chosen([soon, *others], clock.now, seconds=0.4) == [soon]


def test_nobody_goes_before_a_first_chunk(clock: Clock) -> None:
    others = [opened(clock, heard_s=20.0) for _ in range(4)]
    new = opened(clock, schedule=(10,))
    assert chosen([*others, new], clock.now) == [new]


def test_those_to_whom_nobody_listens_wait_for_those_to_whom_somebody_does(clock: Clock) -> None:
    job, live = opened(clock, paced=False), opened(clock, heard_s=20.0)
    assert chosen([job, live], clock.now, max_batch=1) == [live]
    ahead, behind = opened(clock, heard_s=8.0, paced=False), opened(clock, heard_s=2.0, paced=False)
    assert chosen([ahead, behind], clock.now, max_batch=1) == [behind]


@given(
    st.lists(st.tuples(st.sampled_from((5, 10, 25)), st.floats(0, 20)), min_size=1, max_size=40),
    st.integers(1, 8), st.floats(0.001, 2.0),
)  # fmt: skip
def test_a_call_is_of_one_shape_and_of_those_that_are_ready(
    streams: list[tuple[int, float]], max_batch: int, seconds: float
) -> None:
    clock = Clock()
    live = [opened(clock, heard_s=heard, schedule=(size,)) for size, heard in streams]
    work = ready(live, clock.now, lambda stream, chunk: chunk.end, 8)
    taken, spare_s = batch(work, clock.now, max_batch, lambda a, b: a.tokens == b.tokens, lambda tokens: seconds)
    assert 1 <= len(taken) <= max_batch
    assert len({item.tokens for item in taken}) == 1
    assert len({id(item.stream) for item in taken}) == len(taken)
    first = min(live, key=lambda stream: stream.due)
    if all(item.stream is not first for item in taken):  # it was put off, and will be in time
        assert first.playing
        assert first.due >= clock.now + 2 * seconds
        assert spare_s > 0


def test_a_listener_about_to_run_dry_gets_what_is_here(clock: Clock) -> None:
    sizes = {"schedule": (10, 100), "hurry_s": 0.5}
    stream = opened(clock, tokens=45, **sizes)  # type: ignore[arg-type]
    assert stream.begin_piece(0, 0.0) == (10, 10)  # T3 hands over what may be wanted early
    first = stream.next_chunk()
    assert first is not None
    assert first.end == 10
    stream.commit(first, 0)
    stream.emit(SECOND, final=False)
    assert stream.next_chunk() is None  # a second is left: the schedule's 100 are waited for
    clock.now += 0.6
    hurried = stream.next_chunk()
    assert hurried is not None
    assert hurried.end == 40
    steady = opened(clock, heard_s=0.1, tokens=45, schedule=(10, 100))
    steady.commit(first, 0)
    assert steady.next_chunk() is None


def test_a_listener_who_ran_dry_plays_on_from_where_audio_came(clock: Clock) -> None:
    stream = opened(clock, heard_s=1.0)
    clock.now += 1.5
    stream.emit(SECOND, final=False)
    assert stream.stalls == 1
    assert stream.stalled_s == pytest.approx(0.5)
    assert stream.due == pytest.approx(clock.now + 1.0)
    stream.emit(SECOND, final=False)
    assert stream.stalls == 1
    assert stream.due == pytest.approx(clock.now + 2.0)


@pytest.fixture(scope="module")
def scenes() -> dict[str, dict[str, deadlines.Outcome]]:
    """500 listeners at each service, by policy."""
    made: dict[str, dict[str, deadlines.Outcome]] = {}
    for name, devices, span in deadlines.SCENES:
        listeners = crowd(500, span)
        for policy, simulation in deadlines.policies(devices).items():
            made.setdefault(name, {})[policy] = outcome(simulation, simulation.run(listeners))
    return made


def test_each_policy_is_worth_something_to_500_listeners(scenes: dict[str, dict[str, deadlines.Outcome]]) -> None:
    """By the figures of a simulation, which are the same each time."""
    for made in scenes.values():
        arrival, dry, fuller, hurry, engine = made.values()
        assert fuller.first_p99_s <= 1.05 * dry.first_p99_s
        assert fuller.carried >= 0.97 * dry.carried
        assert engine.stalled_s <= 2.0  # of 500 listeners together
        assert engine.first_p99_s <= hurry.first_p99_s
        assert engine.carried >= 0.8 * max(policy.carried for policy in made.values())
        assert engine.admitted >= 250
        assert engine.first_p50_s <= arrival.first_p50_s
    at_limit, beyond, t3, windows = scenes.values()
    assert dict(at_limit)["by arrival"].first_p99_s > 3 * dict(at_limit)["who runs dry first"].first_p99_s
    assert windows["who runs dry first"].stalled > 50
    assert windows["and fuller calls where there is time"].stalled == 0
    assert beyond["and hurry"].stalled_s > 1000  # nobody is refused: all of them stall
    assert t3["and hurry"].stalled_s < 0.7 * t3["and fuller calls where there is time"].stalled_s


def test_an_easy_load_is_let_in_whole_and_heard_without_a_gap() -> None:
    devices = Devices(t3=Line(0.004, 0.0001), s3gen=Line(0.005, 0.0001), chunked=True)
    for simulation in deadlines.policies(devices).values():
        made = outcome(simulation, simulation.run(crowd(100, 60.0)))
        assert (made.admitted, made.stalled) == (100, 0)


def test_every_utterance_ends_and_is_as_long_as_its_tokens() -> None:
    listeners = crowd(60, 5.0, seed=3)
    simulation: Simulation = deadlines.policies(deadlines.S3GEN_BOUND)["and hurry"]
    simulation.run(listeners)
    assert simulation.samples == SAMPLES_PER_TOKEN * sum(listener.tokens for listener in listeners)


def test_work_names_what_decides() -> None:
    assert {"stream", "chunk", "tokens", "prompt"} == set(Work.__dataclass_fields__)
