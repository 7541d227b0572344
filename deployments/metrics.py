"""Every metric of the service: the specification, and the only code that exports it."""

import asyncio
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from ray.serve import metrics as serve_metrics

from chatterbox_engine.types import SAMPLE_RATE, TOKEN_RATE

PREFIX = "chatterbox_"
_FIRST_AUDIO_BUCKETS = [0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0]
PERIOD_S = 1.0
"""Between two reports."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Ray's exporter puts `ray_` before its name and `_total` behind a counter's."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """As Grafana names it: s, bytes, short."""
    help: str
    labels: tuple[str] | None = None

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        return f"ray_{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


def _stage(stage: str, title: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{stage}_busy_seconds", "counter", "s", f"Seconds {title} spent working."),
        Metric(f"{stage}_audio_seconds", "counter", "s", f"Seconds of audio {title} made."),
        Metric(f"{stage}_streams", "gauge", "short", f"Streams that {title} works on."),
        Metric(f"{stage}_batch_size", "gauge", "short", f"Streams in {title}'s last step."),
    )


SPECIFICATION = (
    *_stage("t3", "T3"),
    Metric("t3_queue_depth", "gauge", "short", "Requests that wait for a place in T3."),
    *_stage("s3gen", "S3Gen"),
    Metric("s3gen_watermark_seconds", "counter", "s", "Seconds of S3Gen's busy time that the watermark took."),
    Metric("s3gen_stalls", "counter", "short", "Times that a listener's playback ran dry."),
    Metric("s3gen_stalled_seconds", "counter", "s", "Seconds of silence that listeners heard within utterances."),
    Metric("t3_reopened", "counter", "short", "Streams that went on after their T3 replica broke off."),
    Metric("streams_live", "gauge", "short", "Requests in flight at the ingress."),
    Metric("jobs_queued", "gauge", "short", "Jobs that are worked on, or wait for it."),
    Metric("job_pieces", "counter", "short", "Pieces of jobs that were spoken."),
    Metric("requests", "counter", "short", "Speech requests by how they ended.", ("outcome",)),
    Metric("first_audio_seconds", "histogram", "s", "From a request's arrival at the ingress to its first audio."),
    Metric("vram_allocated_bytes", "gauge", "bytes", "Device memory in tensors.", ("stage",)),
    Metric("vram_reserved_bytes", "gauge", "bytes", "Device memory held by the allocator.", ("stage",)),
    Metric("vram_peak_bytes", "gauge", "bytes", "Most device memory in tensors since the start.", ("stage",)),
)
OUTCOMES = ("ok", "refused", "overloaded", "failed", "cancelled")
"""How requests end."""
_NEXT_TO_NOTHING = math.ulp(0.0)
"""Ray takes no increment of 0; this one is lost in the first that follows."""
_BY_NAME = {metric.name: metric for metric in SPECIFICATION}


class StageCounters(Protocol):
    """What an engine counts; all of it only grows but `running`, `waiting` and `batch`."""

    @property
    def busy_seconds(self) -> float: ...
    @property
    def running(self) -> int: ...
    @property
    def batch(self) -> int: ...


def _counter(name: str, *values: str) -> serve_metrics.Counter:
    """Begun at 0, for each of the label's values: a rate misses what a series is born with."""
    metric = _BY_NAME[name]
    counter = serve_metrics.Counter(PREFIX + metric.name, description=metric.help, tag_keys=metric.labels)
    for tags in [dict(zip(metric.labels or (), (value,), strict=True)) for value in values] or [{}]:
        counter.inc(_NEXT_TO_NOTHING, tags=tags)
    return counter


def _gauge(name: str) -> serve_metrics.Gauge:
    metric = _BY_NAME[name]
    return serve_metrics.Gauge(PREFIX + metric.name, description=metric.help, tag_keys=metric.labels)


class _Growth:
    """Exports a number that only grows as a counter."""

    def __init__(self, name: str) -> None:
        self._counter = _counter(name)
        self._seen = 0.0

    def report(self, total: float) -> None:
        if total > self._seen:
            self._counter.inc(total - self._seen)
            self._seen = total


class StageMetrics:
    """Reports one engine's counters and its device's memory, once a second."""

    def __init__(self, stage: Literal["t3", "s3gen"]) -> None:
        self._stage = stage
        self._busy = _Growth(f"{stage}_busy_seconds")
        self._audio = _Growth(f"{stage}_audio_seconds")
        self._streams = _gauge(f"{stage}_streams")
        self._batch = _gauge(f"{stage}_batch_size")
        self._queue = _gauge("t3_queue_depth") if stage == "t3" else None
        self._watermark = _Growth("s3gen_watermark_seconds") if stage == "s3gen" else None
        self._stalls = _Growth("s3gen_stalls") if stage == "s3gen" else None
        self._stalled = _Growth("s3gen_stalled_seconds") if stage == "s3gen" else None
        self._reopened = _counter("t3_reopened") if stage == "s3gen" else None
        self._vram = {
            "vram_allocated_bytes": torch.cuda.memory_allocated,
            "vram_reserved_bytes": torch.cuda.memory_reserved,
            "vram_peak_bytes": torch.cuda.max_memory_allocated,
        }
        self._vram_gauges = {name: _gauge(name) for name in self._vram} if torch.cuda.is_available() else {}

    def report(self, engine: StageCounters) -> None:
        """Export the engine's figures as they are now."""
        self._busy.report(engine.busy_seconds)
        self._streams.set(engine.running)
        self._batch.set(engine.batch if engine.running else 0)
        if self._queue is not None:
            self._audio.report(getattr(engine, "tokens", 0) / TOKEN_RATE)
            self._queue.set(getattr(engine, "waiting", 0))
        if self._watermark is not None:
            self._audio.report(getattr(engine, "samples", 0) / SAMPLE_RATE)
            self._watermark.report(getattr(engine, "watermark_seconds", 0.0))
        if self._stalls is not None and self._stalled is not None:
            self._stalls.report(getattr(engine, "stalls", 0))
            self._stalled.report(getattr(engine, "stalled_seconds", 0.0))
        for name, gauge in self._vram_gauges.items():
            gauge.set(self._vram[name](), tags={"stage": self._stage})

    def reopened(self) -> None:
        """A stream of S3Gen goes on with another T3 replica."""
        assert self._reopened is not None
        self._reopened.inc()

    async def run(self, engine: StageCounters) -> None:
        """Report for as long as the replica lives."""
        while True:
            self.report(engine)
            await asyncio.sleep(PERIOD_S)


class JobMetrics:
    """Reports on long texts."""

    def __init__(self) -> None:
        self._queued = _gauge("jobs_queued")
        self._pieces = _Growth("job_pieces")

    def report(self, queued: int, pieces: int) -> None:
        """`pieces`: said since the start."""
        self._queued.set(queued)
        self._pieces.report(pieces)


class IngressMetrics:
    """What only the ingress can see: requests, how they end, and the wait for the first sound."""

    def __init__(self) -> None:
        self._live = _gauge("streams_live")
        self._requests = _counter("requests", *OUTCOMES)
        metric = _BY_NAME["first_audio_seconds"]
        self._first_audio = serve_metrics.Histogram(
            PREFIX + metric.name, description=metric.help, boundaries=_FIRST_AUDIO_BUCKETS
        )

    def live(self, streams: int) -> None:
        self._live.set(streams)

    def first_audio(self, seconds: float) -> None:
        self._first_audio.observe(seconds)

    def ended(self, outcome: str) -> None:
        """`outcome`: one of OUTCOMES."""
        self._requests.inc(tags={"outcome": outcome})
