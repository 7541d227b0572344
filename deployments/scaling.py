"""How many replicas a stage should have: a policy without Ray, and the class by which Ray Serve asks it.

This file imports nothing of the project: Ray carries it by value into its controller, which may not see the project.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

logger = logging.getLogger("ray.serve")

LOOK_S = 1.0
"""Between two looks."""
NO_LISTENER_S = 60.0
"""What counts as the slack of a replica that has no listener; nobody's is told as more."""
_FEW_S = 0.5
"""Of slack: with less for a tenth of the listeners a replica has more of them than it carries."""
_BUSY = 0.7
"""Share of its time. A replica that is less busy does not keep its listeners waiting; the other stage does."""
_PATIENCE_S = 1.0
"""In a replica's queue."""
RESERVE = 2.25
"""Standard deviations of the number of streams that are kept free, here and by the router."""
_SOON_S = 15.0
"""Over which arrivals and refusals are counted."""
_TREND = 0.12
"""Of the load: what a trend may add; more than that within a cold start is a jump, which is met when it is seen."""
_STEP_DOWN_S = 10.0
_LENGTH, _LONGEST = 10.0, 120.0
"""Looks that a stream is taken to last before any has been seen to end, and at most where few have."""
_REACTS_S = 20.0
"""From a change of the load until it is seen whole (`_SOON_S`, and some looks), beside the cold start."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One replica of a stage, as seen now."""

    running: float = 0
    """Streams at work."""
    waiting: float = 0
    """Streams that wait for a place."""
    wait_s: float = 0
    """How long the listener of whoever waits longest has had nothing to play."""
    places: float = 1
    carries: float = 0
    """Streams that it has been seen to keep supplied; 0: not known yet, and `places` counts."""
    slack_s: float = NO_LISTENER_S
    """Seconds until the first listener runs dry."""
    low_slack_s: float = NO_LISTENER_S
    """Of the tenth of the listeners that run dry first, the largest such time."""
    busy: float = 0
    """Share of the time since the last look that it worked."""
    admitted: float = 0
    """Streams that began since the last look, those that were turned away, and those that ended."""
    refused: float = 0
    ended: float = 0

    @property
    def capacity(self) -> float:
        """Streams that it can have. Where listeners are about to run dry by its own fault: fewer than it has now."""
        most = min(self.places, self.carries or self.places)
        if self.low_slack_s < _FEW_S and self.busy >= _BUSY:
            most = min(most, 0.8 * self.running)
        return max(1.0, most)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator sets."""

    least: int
    """Replicas; 0: the stage may sleep."""
    most: int
    idle_s: float
    """Without a stream, after which the last replica goes where `least` is 0."""
    cold_start_s: float
    """From asking for a replica until it takes streams, as long as none has been seen to come."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, and why, for the log."""

    wanted: int
    why: str


@dataclass(slots=True)
class _Look:
    """The whole stage at one time."""

    now: float
    live: float
    """Streams that run or wait."""
    admitted: float
    """Since the look before."""
    refused: float
    ended: float
    wanting: float = 0.0
    """Streams that are served, and those that will want to be before long."""

    @classmethod
    def at(cls, now: float, replicas: Sequence[Figures], queued: float) -> "_Look":
        live = queued + sum(replica.running + replica.waiting for replica in replicas)
        admitted, refused, ended = (
            sum(getattr(replica, name) for replica in replicas) for name in ("admitted", "refused", "ended")
        )
        return cls(now, live, admitted, refused, ended)


class ScalingPolicy:
    """Up at once, down slowly; one stage, looked at about once a second.

    Where streams come faster than they leave, their number goes towards as many as come in a second, those that are
    turned away among them, times the seconds that one lasts (Little's law). That length is the time that streams
    have had over how many have ended, the most likely one of an exponential distribution while many are not over
    yet. By the end of a cold start their number has gone the share 1 - exp(-time / length) of that way: little of
    it where streams are long, all of it where they are short. A line through the last while is read a cold start
    ahead; it overshoots a jump, and so is taken for no more than has been seen. Places are kept free beside it in
    proportion to the square root of the load, by which a Poisson load varies (square-root staffing: Halfin and
    Whitt, Operations Research 29(3), 1981; with a load that changes: Green, Kolesar and Whitt, Production and
    Operations Management 16(1), 2007). The router spares whom these places do not need (deployments/routing.py), so
    that it is empty soon. A replica leaves only when fewer have been enough for a whole cool-down, which is how
    Kubernetes' HorizontalPodAutoscaler keeps from flapping (its stabilisation window); what it has of streams it
    finishes.

    Not thread-safe; holds what it has seen of a few minutes.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.cold_start_s = limits.cold_start_s
        """As seen last, or as given."""
        self._asked: tuple[float, int] | None = None
        """When replicas were asked for that are not there yet, and how many there will be."""
        self._capacity = math.inf
        """Of a replica, as known last; before that one replica is enough."""
        self._flow: deque[_Look] = deque()
        self._needed: deque[tuple[float, int]] = deque()
        """Time and replicas, over the cool-down."""
        self._began: float | None = None
        self._used = -math.inf
        """When a stream was seen last."""
        self._left = -math.inf
        """When a replica was let go last."""

    @property
    def span_s(self) -> float:
        """Over which a trend is sought: a shorter one takes chance for a trend, the more so the further it looks."""
        return max(120.0, 2 * self.cold_start_s)

    @property
    def cool_down_s(self) -> float:
        """In which fewer replicas must have been enough before one leaves."""
        return min(60.0, self._limits.idle_s) + self.cold_start_s / 2

    def decide(self, now: float, replicas: Sequence[Figures], ready: int, target: int, queued: float = 0) -> Decision:
        """What to have from now on.

        Args:
            now: seconds, by a clock that only goes forward.
            replicas: figures of those that have told any.
            ready: how many take streams.
            target: how many there are to be, by the last decision.
            queued: streams that wait for any replica at all.
        """
        if self._began is None:
            self._began = now
            self._used = now if target else -math.inf
        self._time_cold_start(now, ready, target)
        look = _Look.at(now, replicas, queued)
        if look.live or look.refused or target > ready:
            self._used = now
        if replicas:
            known = [replica.capacity for replica in replicas if replica.carries]
            known = known or [replica.capacity for replica in replicas]
            self._capacity = sum(known) / len(known)
        streams, why = self._expected(look)
        needed = math.ceil(streams / self._capacity)
        if any(replica.wait_s > _PATIENCE_S for replica in replicas) and needed <= ready:
            needed, why = ready + 1, f"a stream has waited for over {_PATIENCE_S:g} s"
        asleep = self._limits.least == 0 and now - self._used >= self._limits.idle_s
        needed = 0 if asleep else min(max(needed, 1, self._limits.least), self._limits.most)
        return self._settle(now, needed, target, asleep, why)

    def _time_cold_start(self, now: float, ready: int, target: int) -> None:
        if self._asked is not None and ready >= self._asked[1]:
            self.cold_start_s = max(LOOK_S, now - self._asked[0])
            self._asked = None
        elif target <= ready:
            self._asked = None
        elif self._asked is None:
            self._asked = now, target

    def _expected(self, look: "_Look") -> tuple[float, str]:
        """Places to have when replicas that are asked for now are there, and why."""
        self._flow.append(look)
        while self._flow[0].now < look.now - self.span_s:
            self._flow.popleft()
        wanting = self._wanting(look)
        look.wanting = wanting
        level, slope = _line([(past.now - look.now, past.wanting) for past in self._flow])
        level = min(max(0.0, level), max(past.wanting for past in self._flow))
        lead = min(max(0.0, slope) * self.cold_start_s, _TREND * level)
        ahead = level + lead + RESERVE * math.sqrt(level + lead)
        if wanting + math.sqrt(wanting) > ahead:
            return wanting + math.sqrt(wanting), f"{wanting:.0f} streams want to be served"
        return ahead, f"{level:.0f} streams want to be served, and {lead:.0f} more are to come"

    def _wanting(self, look: "_Look") -> float:
        """Streams that will want to be served when a replica that is asked for now is there."""
        soon = [past for past in self._flow if past.now > look.now - _SOON_S]
        refused = sum(past.refused for past in soon)
        spoken = _LENGTH + sum(past.live for past in self._flow)
        lasts = min(spoken / (1 + sum(past.ended for past in self._flow)), _LONGEST)
        come = refused + sum(past.admitted for past in soon)
        more = come / max(len(soon), 1) * lasts - look.live
        return look.live + max(0.0, more) * (1 - math.exp(-(self.cold_start_s + _REACTS_S) / max(lasts, LOOK_S)))

    def _settle(self, now: float, needed: int, target: int, asleep: bool, why: str) -> Decision:
        """Up at once; down when it was enough for the whole cool-down, and then by a quarter at a time."""
        self._needed.append((now, needed))
        while self._needed[0][0] < now - self.cool_down_s:
            self._needed.popleft()
        if asleep:
            return Decision(0, f"no stream for {self._limits.idle_s:g} s")
        if needed > target:
            return Decision(needed, why)
        assert self._began is not None
        enough = min(max(count for _, count in self._needed), target)
        if enough == target or now - self._began < self.cool_down_s or now - self._left < _STEP_DOWN_S:
            return Decision(min(max(target, self._limits.least), self._limits.most), why)
        self._left = now
        wanted = max(enough, target - max(1, target // 4))
        return Decision(wanted, f"{enough} have been enough for {self.cool_down_s:.0f} s")


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: the value at 0 and the slope; of a few points, their mean."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if len(points) < 10 or not spread:
        return mean_y, 0.0
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return mean_y - slope * mean_x, slope


class ServePolicy:
    """What Ray Serve calls, in its controller, some ten times a second; one object for each stage.

    The figures come from the replicas' `record_autoscaling_stats` (see deployments/load.py).
    """

    def __init__(self, stage: str, least: int, most: int, idle_s: float, cold_start_s: float) -> None:
        self._stage = stage
        self._policy = ScalingPolicy(Limits(least, most, idle_s, cold_start_s))
        self._looked = -math.inf
        self._totals: dict[Any, dict[str, float]] = {}
        """What each replica told last."""

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """Replicas to have, and nothing for Ray to keep."""
        now = time.monotonic()
        target = context.target_num_replicas
        if now - self._looked < LOOK_S:
            return target, {}
        self._looked = now
        told = _last(context.raw_metrics or {})
        figures = [self._figures(replica, values) for replica, values in told.items()]
        self._totals = told
        decision = self._policy.decide(now, figures, context.current_num_replicas, target)
        if decision.wanted != target:
            logger.info("%s: %d replicas instead of %d: %s.", self._stage, decision.wanted, target, decision.why)
        return decision.wanted, {}

    def _figures(self, replica: Any, values: dict[str, float]) -> Figures:
        """What it told, its totals as what came to them since it told before."""
        before = self._totals.get(replica, values)
        grown = {name: max(0.0, values[name] - before[name]) for name in ("admitted", "refused", "busy_s", "at")}
        busy = grown["busy_s"] / grown["at"] if grown["at"] else 0.0
        as_told = {name: values[name] for name in _AS_TOLD}
        more = sum(values[name] - before[name] for name in ("running", "waiting"))
        ended = max(0.0, grown["admitted"] - more)
        return Figures(
            **as_told, busy=min(1.0, busy), admitted=grown["admitted"], refused=grown["refused"], ended=ended
        )


_AS_TOLD = ("running", "waiting", "wait_s", "places", "carries", "slack_s", "low_slack_s")
_TOLD = (*_AS_TOLD, "admitted", "refused", "busy_s")


def _last(metrics: Mapping[str, Mapping[Any, Sequence[Any]]]) -> dict[Any, dict[str, float]]:
    """The newest figures of each replica that has told all of them, and `at`, their time in seconds."""
    told: dict[Any, dict[str, float]] = {}
    for replica, series in metrics.get("places", {}).items():
        points = {name: metrics.get(name, {}).get(replica) for name in _TOLD}
        if series and all(points.values()):
            told[replica] = {name: found[-1].value for name, found in points.items() if found}
            told[replica]["at"] = series[-1].timestamp
    return told
