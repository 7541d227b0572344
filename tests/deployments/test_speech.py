"""An utterance whose replicas of S3Gen break off: it is heard whole and once, or ends with what ended them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError

from chatterbox_engine.errors import EngineDead, InvalidRequest, Overloaded, SpeechFailed
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, Interrupted, Progress, SamplingParams, SpeechRequest
from deployments import speech
from deployments.speech import LIVES, Speech

REQUEST = SpeechRequest("One two three.", "default", SamplingParams(), speed=2.0)
CHUNKS = 6
SIZE = SAMPLE_RATE // 2


class Replicas:
    """A handle of S3Gen. Each call is answered by a replica that dies before the chunk that `breaks` names next."""

    def __init__(self, breaks: list[tuple[int, Exception]]) -> None:
        self.breaks = list(breaks)
        self.calls: list[tuple[SpeechRequest, Interrupted | None]] = []
        self.cancelled = 0

    def options(self, **_: Any) -> "Replicas":
        return self

    def remote(self, request: SpeechRequest, interrupted: Interrupted | None = None) -> Any:
        self.calls.append((request, interrupted))
        return Answer(self, interrupted.samples // SIZE if interrupted else 0)


class Answer:
    def __init__(self, replicas: Replicas, number: int) -> None:
        self._replicas = replicas
        self._number = number

    async def __anext__(self) -> AudioChunk:
        breaks, number = self._replicas.breaks, self._number
        if breaks and breaks[0][0] == number:
            raise breaks.pop(0)[1]
        self._number += 1
        final = self._number == CHUNKS
        return AudioChunk(np.full(SIZE, number), final, (), None if final else Progress(number, 0, number))

    def cancel(self) -> None:
        self._replicas.cancelled += 1


async def heard(replicas: Any, then: Callable[[], None] = lambda: None) -> tuple[list[int], int]:
    """The chunks that came, and how often another replica went on."""
    went_on: list[None] = []
    numbers: list[int] = []
    chunks = Speech(replicas, REQUEST, lambda: went_on.append(None))
    async for chunk in chunks:
        numbers.append(int(chunk.samples[0]))
        then()
        if chunk.final:
            return numbers, len(went_on)
    raise AssertionError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "AGAIN_S", 0.0)


@given(st.lists(st.integers(0, CHUNKS - 1), max_size=12).map(sorted), st.booleans())
def test_it_is_heard_whole_and_once(places: list[int], in_process: bool) -> None:
    """Wherever replicas break off, but for too many at one place."""
    speech.AGAIN_S = 0.0
    error = EngineDead("gone") if in_process else ActorDiedError()
    replicas = Replicas([(place, error) for place in places])
    if max((places.count(place) for place in places), default=0) >= LIVES:
        with pytest.raises(type(error)):
            asyncio.run(heard(replicas))
        return
    assert asyncio.run(heard(replicas)) == (list(range(CHUNKS)), len(places))
    for place, (request, interrupted) in zip(places, replicas.calls[1:], strict=True):
        assert request == REQUEST
        if place == 0:  # nothing was heard: it is a new listener, who may be turned away
            assert interrupted is None
        else:
            assert interrupted is not None
            assert (interrupted.samples, interrupted.progress.piece) == (place * SIZE, place - 1)
    assert replicas.cancelled == len(places)


def test_another_replica_is_told_how_long_its_listener_has_still_to_play() -> None:
    replicas = Replicas([(2, EngineDead("gone"))])
    begin = time.monotonic()
    asyncio.run(heard(replicas, lambda: time.sleep(0.1)))
    _, interrupted = replicas.calls[1]
    assert interrupted is not None
    assert 0.5 - (time.monotonic() - begin) < interrupted.slack_s <= 0.5 - 0.2  # a second at twice its speed


@pytest.mark.parametrize("error", [SpeechFailed("poisoned"), Overloaded(), InvalidRequest("no")])
def test_what_would_end_it_anywhere_ends_it(error: Exception) -> None:
    replicas = Replicas([(2, error)])
    with pytest.raises(type(error)):
        asyncio.run(heard(replicas))
    assert len(replicas.calls) == 1


def test_nobody_waits_for_ever_for_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_BACK_S", 0.05)

    class Away(Replicas):
        def remote(self, request: SpeechRequest, interrupted: Interrupted | None = None) -> Any:
            answer = super().remote(request, interrupted)
            if len(self.calls) > 1:
                answer.__class__ = type("Waiting", (Answer,), {"__anext__": lambda _: asyncio.sleep(60)})
            return answer

    with pytest.raises(ActorDiedError):
        asyncio.run(heard(Away([(2, ActorDiedError())])))
