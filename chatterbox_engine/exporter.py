"""Metrics of an engine used without Ray, by prometheus-client: read when Prometheus asks, so steps pay nothing."""

import contextlib
from collections.abc import Callable, Generator, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from torch import Tensor

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.metrics import BY_NAME, FIRST_AUDIO_BUCKETS, OUTCOMES, PREFIX, Readings
from chatterbox_engine.utterance import StreamingMetrics

Chunk = tuple[Tensor, StreamingMetrics]
Read = Callable[[], list[tuple[str, Readings]]]
"""What each stage says of itself now, with the stage's name."""


class Exporter:
    """Serves /metrics of one speaker. The names are the service's, but for Ray's prefix."""

    def __init__(self, port: int, readings: Read, address: str = "127.0.0.1") -> None:
        """Raises InvalidRequest where the port cannot be had."""
        registry = CollectorRegistry()
        registry.register(_Readings(readings))
        requests, first = BY_NAME["requests"], BY_NAME["first_audio_seconds"]
        self._requests = Counter(PREFIX + requests.name, requests.help, requests.labels, registry=registry)
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        self._first_audio = Histogram(PREFIX + first.name, first.help, buckets=FIRST_AUDIO_BUCKETS, registry=registry)
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except (OSError, OverflowError) as error:
            raise InvalidRequest(f"Metrics cannot be served at {address}:{port}: {error}", "metrics_port") from error
        self.port: int = self._server.server_port
        """The one asked for; with 0, whichever was free."""

    def watched(self, chunks: Generator[Chunk, None, None]) -> Generator[Chunk, None, None]:
        """An utterance's chunks, counted: its first audio, and how it ends."""
        outcome = "cancelled"
        try:
            for number, (samples, metrics) in enumerate(chunks):
                if not number:
                    self._first_audio.observe(metrics.latency_to_first_chunk)
                yield samples, metrics
            outcome = "ok"
        except Exception:
            outcome = "failed"
            raise
        finally:
            chunks.close()
            self._requests.labels(outcome).inc()

    def close(self) -> None:
        """Safe to call twice."""
        with contextlib.suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join()


class _Readings(Collector):
    def __init__(self, readings: Read) -> None:
        self._readings = readings

    def describe(self) -> list[Family]:
        return []  # so that nothing is read before it is asked for

    def collect(self) -> Iterator[Family]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for stage, readings in self._readings():
            for name, value in readings.items():
                metric = BY_NAME[name]
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                if name not in families:
                    families[name] = kind(PREFIX + name, metric.help, labels=metric.labels)
                families[name].add_metric([stage] if metric.labels else [], value)
        yield from families.values()
