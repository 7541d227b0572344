"""A stage of replicas under a recorded load, second by second, without Ray and without waiting."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from deployments.routing import TOLD_S, Seat, ranked
from deployments.scaling import NO_LISTENER_S, Figures

STEP_S = 0.5
PLACES = 16
CARRIES = 12
"""Streams that a replica's engine lets in, by what it has learned (s3gen.admission: auto)."""
REAL_TIME = 15.0
"""Streams that it makes at the speed of their playback: the engine keeps a fifth in reserve."""
FASTEST = 3.0
"""Times real time of a stream alone."""
MARGIN_S = 0.4
"""The engine lets nobody in while a listener has less than this (chatterbox_engine/s3gen/scheduler.py)."""
FIRST_S = 1.0
"""Of audio in the first chunk."""

Policy = Callable[[float, list[Figures], int, int], int]
"""Now, figures, ready replicas, target -> target."""


@dataclass(frozen=True)
class Load:
    arrivals: list[tuple[float, float]]
    """When each utterance comes and how long it lasts, seconds, in the order in which they come."""
    length_s: float
    spike_s: tuple[float, float] | None = None
    """Where it is several times as heavy."""


@dataclass(eq=False)
class _Stream:
    begin: float
    ends: float
    lasts: float
    made_before: float
    """What the replica had made for each of its streams when it began."""
    stalled: bool = False


@dataclass(eq=False)
class _Replica:
    ready_at: float
    streams: list[_Stream] = field(default_factory=list)
    made: float = 0.0
    """Seconds of audio for each stream that is there all the time."""
    slow_until: float = -1.0
    leaving: bool = False
    admitted: int = 0
    refused: int = 0
    ended: int = 0
    told_at: float = -math.inf
    carries: int = CARRIES

    def slacks(self, now: float) -> list[float]:
        """Of the listeners whose audio is not all made."""
        made = [(stream, FIRST_S + self.made - stream.made_before) for stream in self.streams]
        return sorted(audio - (now - stream.begin) for stream, audio in made if audio < stream.lasts)

    def full(self, now: float) -> bool:
        return len(self.streams) >= CARRIES or min(self.slacks(now), default=NO_LISTENER_S) < MARGIN_S

    def seat(self, now: float) -> Seat:
        """As the router knows it: its streams by what it has sent, the rest as the replica told it last."""
        if now >= self.told_at + TOLD_S:
            self.told_at, self.carries = now, 0 if self.full(now) else CARRIES
        return Seat(len(self.streams), carries=self.carries, began=self.ready_at)

    def look(self, now: float) -> Figures:
        slacks = self.slacks(now)
        figures = Figures(
            running=len(self.streams),
            places=PLACES,
            carries=CARRIES,
            slack_s=min([*slacks[:1], NO_LISTENER_S]),
            low_slack_s=min([*slacks[len(slacks) // 10 :][:1], NO_LISTENER_S]),
            busy=min(1.0, len(self.streams) / REAL_TIME + 0.2),
            admitted=self.admitted,
            refused=self.refused,
            ended=self.ended,
        )
        self.admitted = self.refused = self.ended = 0
        return figures


@dataclass
class Outcome:
    """What a run came to."""

    admitted: int = 0
    stalled: int = 0
    refused_at: list[float] = field(default_factory=list)
    replica_s: float = 0.0
    most: int = 0

    @property
    def stall_share(self) -> float:
        return self.stalled / max(1, self.admitted)


class Simulation:
    """The gate, the router, and replicas that come after a cold start and leave when their streams are over.

    A replica makes all its streams equally fast, none faster than `FASTEST`; above `REAL_TIME` streams, or while
    something else slows it down, listeners' slack shrinks. Whoever is turned away goes away, or asks again.
    """

    def __init__(self, load: Load, policy: Policy, cold_start_s: float, begin: int, slow: float = 0.0) -> None:
        """`slow`: how often a replica slows down to 70 % for 20 s, times a second."""
        self._load = load
        self._policy = policy
        self._cold_start_s = cold_start_s
        self._slow = slow
        self._rng = random.Random(7)
        self._replicas = [_Replica(0.0) for _ in range(begin)]
        self._target = begin
        self.outcome = Outcome()

    def run(self) -> Outcome:
        arrivals = iter(self._load.arrivals)
        coming = next(arrivals, None)
        for step in range(round(self._load.length_s / STEP_S)):
            now = step * STEP_S
            if step % round(1 / STEP_S) == 0:
                self._scale(now)
            while coming is not None and coming[0] < now + STEP_S:
                self._arrive(now, coming[1])
                coming = next(arrivals, None)
            for replica in self._replicas:
                self._advance(replica, now)
            self._replicas = [r for r in self._replicas if not r.leaving or r.streams]
            self.outcome.replica_s += STEP_S * len(self._replicas)
            self.outcome.most = max(self.outcome.most, len(self._replicas))
        return self.outcome

    def _ready(self, now: float) -> list[_Replica]:
        return [replica for replica in self._replicas if replica.ready_at <= now and not replica.leaving]

    def _scale(self, now: float) -> None:
        ready = self._ready(now)
        self._target = self._policy(now, [replica.look(now) for replica in ready], len(ready), self._target)
        have = [replica for replica in self._replicas if not replica.leaving]
        for _ in range(self._target - len(have)):
            self._replicas.append(_Replica(now + self._cold_start_s))
        newest = sorted(have, key=lambda replica: -replica.ready_at)  # as Ray does
        for replica in newest[: max(0, len(have) - self._target)]:
            replica.leaving = True

    def _arrive(self, now: float, lasts: float) -> None:
        ready = self._ready(now)
        if not ready:
            self.outcome.refused_at.append(now)
            return
        seats = [replica.seat(now) for replica in ready]
        replica = min((ready[index] for index in ranked(seats)[0]), key=lambda one: len(one.streams))
        if replica.full(now):
            replica.refused += 1
            self.outcome.refused_at.append(now)
            return
        replica.admitted += 1
        replica.streams.append(_Stream(now, now + lasts, lasts, replica.made))
        self.outcome.admitted += 1

    def _advance(self, replica: _Replica, now: float) -> None:
        if self._slow and self._rng.random() < self._slow * STEP_S:
            replica.slow_until = now + 20
        able = REAL_TIME * (0.7 if now < replica.slow_until else 1.0)
        if replica.streams:
            replica.made += STEP_S * min(FASTEST, able / len(replica.streams))
        for stream in replica.streams:
            audio = FIRST_S + replica.made - stream.made_before
            late = now + STEP_S - stream.begin - audio
            if late > 0 and audio < stream.lasts:
                self.outcome.stalled += not stream.stalled
                stream.stalled = True
                stream.ends = max(stream.ends, stream.begin + stream.lasts + late)
        live = [stream for stream in replica.streams if stream.ends > now + STEP_S]
        replica.ended += len(replica.streams) - len(live)
        replica.streams = live


def oracle_s(load: Load, cold_start_s: float) -> float:
    """Replica-seconds of the least replicas that let everybody in at each time, known beforehand.

    Each is paid from its cold start on. One that would be wanted again sooner than a new one could start stays. Streams
    move between replicas for nothing, which no real ones do.
    """
    steps = round(load.length_s / STEP_S)
    changes = [0] * (steps + 1)
    for begin, lasts in load.arrivals:
        changes[min(steps, int(begin / STEP_S))] += 1
        changes[min(steps, math.ceil((begin + lasts) / STEP_S))] -= 1
    needed = [math.ceil(streams / CARRIES) for streams in accumulate(changes[:steps])]
    cold = round(cold_start_s / STEP_S)
    paid = 0
    for level in range(1, max(needed) + 1):
        until = 0  # paid up to here
        for step, count in enumerate(needed):
            if count >= level:
                paid += step + 1 - max(until, step - cold, 0)
                until = step + 1
    return paid * STEP_S
