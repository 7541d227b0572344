"""OpenTelemetry's spans of a request, from the ingress through S3Gen to T3: off unless `traces` says where they go."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from ray.serve.context import _get_serve_request_context

_DELAY_MS = 1000
"""Between two batches of spans."""
_KEY = "traceparent"
"""W3C's name for what tells a span's children of it."""


class Span:
    """A part of a request, until it is ended."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """For its children, in other processes too; None where nothing is traced."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get(_KEY)

    def event(self, name: str) -> None:
        """Something happened now."""
        self._span.add_event(name)

    def end(self, **attributes: Any) -> None:
        """With what is known of it now; None is not told."""
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        self._span.end()


class Tracer:
    """Begins the spans of one deployment."""

    def __init__(self, deployment: str, traces: str | None) -> None:
        """`traces`: settings.ServiceSettings.traces."""
        if traces is None:
            self._tracer: trace.Tracer = trace.NoOpTracer()
            return
        provider = TracerProvider(
            resource=Resource({"service.name": "chatterbox", "chatterbox.deployment": deployment})
        )
        provider.add_span_processor(BatchSpanProcessor(_exporter(traces), schedule_delay_millis=_DELAY_MS))
        self._tracer = provider.get_tracer("chatterbox")

    def begin(self, name: str, parent: str | None = None, **attributes: Any) -> Span:
        """`parent`: a traceparent; None begins a trace. Serve's request id is told with it."""
        context = TraceContextTextMapPropagator().extract({_KEY: parent} if parent else {})
        told = {"request.id": _get_serve_request_context().request_id, **attributes}
        return Span(self._tracer.start_span(name, context, attributes=told))


def _exporter(traces: str) -> SpanExporter:
    parts = urlsplit(traces)
    if parts.scheme == "file":
        file = Path(unquote(parts.path)).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 (it is kept)
        return ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    return OTLPSpanExporter(endpoint=traces)
