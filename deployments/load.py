"""What a replica tells of its load: to the policy that decides how many there are, and to the router."""

import time
from collections.abc import Sequence
from typing import Protocol

from deployments.scaling import NO_LISTENER_S


class Loaded(Protocol):
    """An engine; `busy_seconds`, `admitted` and `refused` only grow."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def places(self) -> int: ...
    @property
    def carries(self) -> int | None: ...
    @property
    def busy_seconds(self) -> float: ...
    @property
    def admitted(self) -> int: ...
    @property
    def refused(self) -> int: ...
    def full(self) -> bool: ...
    def wait_s(self) -> float: ...
    def slacks_s(self) -> list[float]: ...


class Load:
    """One engine's load, and what the ingress turned away for want of places."""

    def __init__(self, engine: Loaded) -> None:
        self._engine = engine
        self._turned_away = 0
        self._began = time.time()

    def turned_away(self, streams: int) -> None:
        """The ingress had no place for so many more; it tells one replica of each stage."""
        self._turned_away += streams

    def figures(self) -> dict[str, float]:
        """By the names of `scaling.Figures`, but `admitted`, `refused` and `busy_s` (seconds) since the start."""
        engine = self._engine
        slacks = engine.slacks_s()
        return {
            "running": engine.running,
            "waiting": engine.waiting,
            "wait_s": max(0.0, engine.wait_s()),
            "places": engine.places,
            "carries": engine.carries or 0,
            "slack_s": _capped(slacks[:1]),
            "low_slack_s": _capped(slacks[len(slacks) // 10 :][:1]),
            "admitted": engine.admitted,
            "refused": engine.refused + self._turned_away,
            "busy_s": engine.busy_seconds,
        }

    def seat(self) -> dict[str, float]:
        """What a router should know beside the streams that it sends: by the names of `routing.Seat`."""
        engine = self._engine
        carries = 0 if engine.full() else engine.carries or engine.places
        return {"carries": carries, "began": self._began}


def _capped(slack_s: Sequence[float]) -> float:
    """Without a listener, and where nobody plays it in real time, `NO_LISTENER_S`."""
    return min([*slack_s, NO_LISTENER_S])
