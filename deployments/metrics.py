"""The only code of the service that exports metrics: those of chatterbox_engine.metrics.SPECIFICATION, through Ray."""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve import metrics as serve_metrics

from chatterbox_engine.metrics import BY_NAME, FIRST_AUDIO_BUCKETS, OUTCOMES, PREFIX, Metric, Readings
from deployments.settings import Stage

PERIOD_S = 1.0
"""Between two reports."""
_ERRORS = (
    "InvalidRequest", "UnknownVoice", "UnknownModel", "Overloaded", "ModelUnavailable", "StoreUnavailable",
    "ServiceEnding", "SpeechFailed", "EngineDead", "ActorDiedError", "TimeoutError",
)  # fmt: skip
"""Kinds that are known beforehand."""
_NEXT_TO_NOTHING = math.ulp(0.0)
"""Ray takes no increment of 0; this one is lost in the first that follows."""


def _keys(metric: Metric) -> Any:
    """Ray's own type for them says one label; it takes any number."""
    return metric.labels or None


def _counter(name: str, *values: str) -> serve_metrics.Counter:
    """Begun at 0, for each of the label's values: a rate misses what a series is born with."""
    metric = BY_NAME[name]
    counter = serve_metrics.Counter(PREFIX + metric.name, description=metric.help, tag_keys=_keys(metric))
    for tags in [dict(zip(metric.labels, (value,), strict=True)) for value in values] or [{}]:
        if tags or not metric.labels:
            counter.inc(_NEXT_TO_NOTHING, tags=tags)
    return counter


def _gauge(name: str) -> serve_metrics.Gauge:
    metric = BY_NAME[name]
    return serve_metrics.Gauge(PREFIX + metric.name, description=metric.help, tag_keys=_keys(metric))


class Report:
    """Exports what is read somewhere: counters by what they have grown, gauges as they are."""

    def __init__(self, stage: str | None = None) -> None:
        """`stage`: the label of the metrics that have it."""
        self._stage = stage
        self._counters: dict[str, tuple[serve_metrics.Counter, float]] = {}
        self._gauges: dict[str, serve_metrics.Gauge] = {}

    def tell(self, readings: Mapping[str, float]) -> None:
        for name, value in readings.items():
            if BY_NAME[name].kind == "counter":
                self._grown(name, value)
            else:
                gauge = self._gauges.get(name) or self._gauges.setdefault(name, _gauge(name))
                gauge.set(value, tags=self._tags(name))

    def _grown(self, name: str, total: float) -> None:
        values = [self._stage] if self._stage and BY_NAME[name].labels else []
        counter, seen = self._counters.get(name) or (_counter(name, *values), 0.0)
        if total > seen:
            counter.inc(total - seen, tags=self._tags(name))
        self._counters[name] = counter, max(seen, total)

    def _tags(self, name: str) -> dict[str, str]:
        return {"stage": self._stage} if self._stage and BY_NAME[name].labels == ("stage",) else {}


class StageMetrics:
    """Reports what a stage's engine says of itself, once a second."""

    def __init__(self, stage: str, readings: Callable[[], Readings], started_s: float) -> None:
        """`started_s`: what the start of its replica took."""
        self._report = Report(stage)
        self._readings = readings
        self._start: Readings = {"cold_starts": 1, "cold_start_seconds": started_s}

    async def run(self) -> None:
        """Report for as long as the replica lives."""
        while True:
            self._report.tell({**self._readings(), **self._start})  # Ray forgets a gauge that is not set again
            await asyncio.sleep(PERIOD_S)


class Reopenings:
    """Counts streams that go on with another replica of a stage."""

    def __init__(self, stage: Stage) -> None:
        self._counter = _counter(f"{stage}_reopened")

    def count(self) -> None:
        self._counter.inc()


class IngressMetrics:
    """What only the ingress can see: requests, how they end, and the wait for the first sound."""

    def __init__(self) -> None:
        self._live = _gauge("streams_live")
        self._streams = 0
        self._build = _gauge("build_info")
        self.build: dict[str, str] = {}
        """Labels of build_info, once they are known."""
        self._requests = _counter("requests", *OUTCOMES)
        self._errors = _counter("errors", *_ERRORS)
        metric = BY_NAME["first_audio_seconds"]
        self._first_audio = serve_metrics.Histogram(
            PREFIX + metric.name, description=metric.help, boundaries=list(FIRST_AUDIO_BUCKETS)
        )

    def live(self, streams: int) -> None:
        self._streams = streams
        self._live.set(streams)

    async def run(self) -> None:
        """Say again what has not changed, for as long as the replica lives: Ray forgets a gauge that is not set."""
        while True:
            self._live.set(self._streams)
            if self.build:
                self._build.set(1, tags=self.build)
            await asyncio.sleep(PERIOD_S)

    def first_audio(self, seconds: float) -> None:
        self._first_audio.observe(seconds)

    def ended(self, outcome: str, error: str | None = None) -> None:
        """`outcome`: one of OUTCOMES; `error`: the kind that ended it."""
        self._requests.inc(tags={"outcome": outcome})
        if error is not None:
            self._errors.inc(tags={"kind": error})
