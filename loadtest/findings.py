"""What a load test found: from the lines that listeners left, and from the service's own figures."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.server import Watch

LIVE = ("listener", "websocket")
"""Kinds of listeners who play as they should; the others' waiting is their own doing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One utterance, as its listener saw it."""

    at: float
    """When it ended, time.time()."""
    kind: str
    outcome: str
    users: int
    audio_s: float
    first_s: float | None
    took_s: float
    stalls: int
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Objective:
    """The service-level objective."""

    first_audio_s: float = 1.0
    """Of 95 in 100 utterances, at most."""
    silence: float = 0.002
    """Of the seconds that are played, at most."""
    refused: float = 0.0
    """Of the requests, at most."""


@dataclass(frozen=True, slots=True)
class Level:
    """What listeners heard while there were so many of them."""

    users: int
    utterances: int
    first_p50_s: float
    first_p95_s: float
    stalls: int
    silence: float
    refused: float
    failed: int

    def meets(self, objective: Objective) -> bool:
        return (
            self.utterances > 0
            and not self.failed
            and self.first_p95_s <= objective.first_audio_s
            and self.silence <= objective.silence
            and self.refused <= objective.refused
        )


def read(path: Path) -> list[Event]:
    return [Event(**json.loads(line)) for line in path.read_text().splitlines()]


def quantile(values: Iterable[float], q: float) -> float:
    """Of the values, the one at place q (nearest rank); 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)] if ordered else 0.0


def level(users: int, events: Sequence[Event]) -> Level:
    """Of the events that fell while there were so many users."""
    played = [one for one in events if one.kind in LIVE and one.outcome in ("whole", "hung up")]
    firsts = [one.first_s for one in played if one.first_s is not None]
    seconds, silence = sum(one.audio_s for one in played), sum(one.stalled_s for one in played)
    asked = [one for one in events if one.kind != "voice"]
    return Level(
        users=users,
        utterances=len(played),
        first_p50_s=quantile(firsts, 0.5),
        first_p95_s=quantile(firsts, 0.95),
        stalls=sum(one.stalls for one in played),
        silence=silence / (seconds + silence) if seconds else 0.0,
        refused=sum(one.outcome == "429" for one in asked) / max(1, len(asked)),
        failed=sum(one.outcome == "failed" for one in events),
    )


def levels(events: Sequence[Event]) -> list[Level]:
    """By the number of users there were, the fewest first."""
    counts = sorted({one.users for one in events if one.kind in LIVE})
    return [level(users, [one for one in events if one.users == users]) for users in counts]


def capacity(found: Sequence[Level], objective: Objective) -> int | None:
    """The most users such that they, and all fewer, had what the objective promises; None: not even the fewest."""
    best = None
    for one in found:
        if not one.meets(objective):
            break
        best = one.users
    return best


@dataclass(frozen=True, slots=True)
class Agreement:
    """A figure of the listeners' beside the service's own."""

    what: str
    clients: float
    server: float
    allowed: float
    """By which they may differ: a twentieth of the greater, or of all utterances where the figure is a share."""

    @property
    def holds(self) -> bool:
        return abs(self.clients - self.server) <= self.allowed + 1e-9


def agreements(events: Sequence[Event], watch: Watch) -> list[Agreement]:
    """What can be compared, where the service's figures were read: of utterances that were left, a client knows less
    than the service."""
    if not watch.looks:
        return []
    whole = [one for one in events if one.outcome == "whole" and one.kind != "voice"]
    found = [_near("utterances that ended whole", len(whole), watch.grown("requests_total/ok"))]
    if not any(one.outcome in ("hung up", "failed") for one in events):
        seconds = sum(one.audio_s for one in whole)
        found.append(_near("seconds of audio", seconds, watch.grown("s3gen_audio_seconds_total")))
    firsts = [one.first_s for one in events if one.first_s is not None]
    counted = watch.grown("first_audio_seconds_bucket/+Inf")
    for bound in _bounds(watch, firsts):
        server = watch.grown(f"first_audio_seconds_bucket/{bound}") / max(1.0, counted)
        clients = sum(first <= float(bound) for first in firsts) / max(1, len(firsts))
        allowed = max(0.05, 2 / max(1, len(firsts)))  # of a few, two at the bound are more than a twentieth
        found.append(Agreement(f"share of first audio within {bound} s", clients, server, allowed))
    return found


def _near(what: str, clients: float, server: float) -> Agreement:
    return Agreement(what, clients, server, 0.05 * max(clients, server))


def _bounds(watch: Watch, firsts: Sequence[float]) -> list[str]:
    """The histogram's bounds next above the median and the 95th percentile and half as much again, where a few
    milliseconds on the way change nothing."""
    if not watch.looks or not firsts:
        return []
    own = [name.partition("/") for name in watch.looks[-1].values]
    names = [bound for name, _, bound in own if name == "first_audio_seconds_bucket" and bound != "+Inf"]
    bounds = sorted(names, key=float)
    chosen = []
    for q in (0.5, 0.95):
        least = 1.5 * quantile(firsts, q)
        chosen += [bound for bound in bounds if float(bound) >= least][:1]
    return list(dict.fromkeys(chosen))


def findings(events: Sequence[Event], watch: Watch, objective: Objective) -> dict[str, Any]:
    """All of it, as the report's last line has it."""
    found, played = levels(events), [one for one in events if one.kind in LIVE and one.outcome == "whole"]
    firsts = [one.first_s for one in played if one.first_s is not None]
    factors = [one.took_s / one.audio_s for one in played if one.audio_s]
    seconds = max((one.at for one in events), default=0.0) - min((one.at - one.took_s for one in events), default=0.0)
    return {
        "outcomes": dict(Counter(f"{one.kind}: {one.outcome}" for one in events)),
        "first_audio_s": {f"p{round(100 * q)}": round(quantile(firsts, q), 3) for q in (0.5, 0.95, 0.99)},
        "stalls": sum(one.stalls for one in played),
        "silence": round(level(0, events).silence, 5),
        "real_time_factor": round(statistics.median(factors or [0.0]), 3),
        "audio_seconds_a_second": round(sum(one.audio_s for one in events) / max(1e-9, seconds), 2),
        "levels": [asdict(one) for one in found],
        "objective": asdict(objective),
        "capacity": capacity(found, objective),
        "agreement": [{**asdict(one), "holds": one.holds} for one in agreements(events, watch)],
    }
