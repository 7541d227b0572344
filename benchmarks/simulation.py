"""Listeners at a service of known speed, in simulated time: its streams and its policies are the engine's own.

What is simulated is the devices: a step of T3 and a call of S3Gen take the seconds that a line through their size says.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.capacity import Capacity
from chatterbox_engine.s3gen.scheduler import Work, ready
from chatterbox_engine.s3gen.stream import Chunk, SpeechStream
from chatterbox_engine.types import SAMPLES_PER_TOKEN, S3GenVoice

_SWITCHES = S3GenSwitches()
SCHEDULE, UNREAD = _SWITCHES.chunk_schedule, _SWITCHES.queue_chunks
"""The engine's own defaults; listeners read at once."""
_LOOKAHEAD = 3
_LOOK_AGAIN_S = 0.05
_PROMPT = 250
"""Tokens of the voice's prompt."""
_VOICE = S3GenVoice("simulated", torch.zeros(1, _PROMPT, dtype=torch.int64), torch.zeros(1, 0, 80), torch.zeros(1, 192))


@dataclass(frozen=True)
class Line:
    """Seconds of a call: some for itself, and some for each of what is in it."""

    call_s: float
    each_s: float

    def __call__(self, size: float) -> float:
        return self.call_s + self.each_s * size


@dataclass(frozen=True)
class Devices:
    """What the two stages take, on devices of their own."""

    t3: Line
    """A step, by its streams."""
    s3gen: Line
    """A call, by its tokens, padding included."""
    chunked: bool
    """A chunk goes into a call by itself, not with its prompt and all before it."""


@dataclass(frozen=True)
class Listener:
    """Who asks for an utterance, and plays it as it comes."""

    arrives: float
    tokens: int


@dataclass
class Heard:
    """What came of it; no first audio where it was refused."""

    first_audio_s: float | None = None
    stalls: int = 0
    stalled_s: float = 0.0


Policy = Callable[[list[Work], float], tuple[list[Work], float]]
"""From the work that could be done, and the time, to the next call and what `scheduler.batch` says to spare."""


@dataclass
class _Live:
    listener: Listener
    stream: SpeechStream
    heard: Heard
    sizes: deque[int]
    """In which T3 hands tokens over."""
    drawn: int = 0
    held: int = 0
    """Tokens drawn and not handed over."""


class Simulation:
    """One service; `run` it once."""

    def __init__(
        self, devices: Devices, policy: Policy, *, hurry_s: float | None = None, capacity: Capacity | None = None
    ) -> None:
        """`capacity` refuses newcomers; None: all are let in."""
        self.now = 0.0
        self.busy_s = 0.0
        """Of S3Gen."""
        self.calls = self.chunks = 0
        self.samples = 0
        self._devices = devices
        self._policy = policy
        self._hurry_s = hurry_s
        self._capacity = capacity
        self._live: list[_Live] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._stepping = self._calling = False

    def run(self, listeners: Sequence[Listener]) -> list[Heard]:
        """Serve all of them to the end; what came of each, in their order."""
        heard = [Heard() for _ in listeners]
        for listener, own in zip(listeners, heard, strict=True):
            self._at(listener.arrives, partial(self._arrive, listener, own))
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()
            if not self._stepping:
                self._step()
            if not self._calling:
                self._call()
            if not self._events and self._live:  # all that is left is far ahead of its listeners
                self._at(self.now + _LOOK_AGAIN_S, lambda: None)
        return heard

    def _at(self, when: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), then))

    def _streams(self) -> list[SpeechStream]:
        return [live.stream for live in self._live]

    def _arrive(self, listener: Listener, heard: Heard) -> None:
        if self._capacity is not None and not self._capacity.admits(self.now, self._streams()):
            return
        stream = SpeechStream(
            _VOICE, _LOOKAHEAD, SCHEDULE, None, _SWITCHES.max_lead_s, None, lambda: None,
            hurry_s=self._hurry_s, clock=lambda: self.now,
        )  # fmt: skip
        self._live.append(_Live(listener, stream, heard, deque(stream.begin_piece(0, 0.0))))

    def _step(self) -> None:
        """Begin T3's next step, if there is one to take."""
        speaking = [live for live in self._live if live.drawn < live.listener.tokens]
        self._stepping = bool(speaking)
        if speaking:
            self._at(self.now + self._devices.t3(len(speaking)), partial(self._drawn, speaking))

    def _drawn(self, speaking: Sequence[_Live]) -> None:
        self._stepping = False
        for live in speaking:
            live.drawn += 1
            live.held += 1
            final = live.drawn == live.listener.tokens
            if final or live.held == live.sizes[0]:
                live.stream.feed([0] * live.held, final=final)
                live.held = 0
                if len(live.sizes) > 1:
                    live.sizes.popleft()
            if final:
                live.stream.finish()

    def _call(self) -> None:
        """Begin S3Gen's next call, if there is one to make."""
        work = ready(self._streams(), self.now, self._length, UNREAD)
        self._calling = bool(work)
        if work:
            taken, spare_s = self._policy(work, self.now)
            seconds = self._devices.s3gen(len(taken) * max(item.tokens for item in taken))
            self.busy_s += seconds
            self.calls += 1
            self.chunks += len(taken)
            self._at(self.now + seconds, partial(self._made, taken, spare_s, seconds))

    def _made(self, work: Sequence[Work], spare_s: float, seconds: float) -> None:
        self._calling = False
        lives = {id(live.stream): live for live in self._live}
        before = self.samples
        for item in work:
            live, stream = lives[id(item.stream)], item.stream
            samples = (item.chunk.end - item.chunk.piece.done) * SAMPLES_PER_TOKEN
            stream.commit(item.chunk, 0)
            stream.emit(np.zeros(samples, np.float32), final=False)
            stream.audio.read()
            self.samples += samples
            if live.heard.first_audio_s is None:
                live.heard.first_audio_s = self.now - live.listener.arrives
            live.heard.stalls, live.heard.stalled_s = stream.stalls, stream.stalled_s
            if item.chunk.final:
                self._live.remove(live)
        if self._capacity is not None:
            self._capacity.observe(self.now, self._streams(), self.samples - before, spare_s, seconds / len(work))

    def _length(self, stream: SpeechStream, chunk: Chunk) -> int:
        new = chunk.end - chunk.piece.done + _LOOKAHEAD
        return new if self._devices.chunked else _PROMPT + chunk.end + _LOOKAHEAD
