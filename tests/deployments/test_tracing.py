"""One request is one trace, across processes; nothing is traced unless it was asked for."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

from deployments.settings import ServiceSettings
from deployments.tracing import Tracer
from tests.service import Service
from tests.web import serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_nothing_is_traced_unless_it_was_asked_for() -> None:
    span = Tracer("t3", None).begin("t3.speak")
    assert span.traceparent is None
    span.event("first tokens")
    span.end(tokens=3)


class _Collector(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def collector() -> Iterator[Any]:
    server = HTTPServer(("127.0.0.1", 0), _Collector)
    server.got = []  # type: ignore[attr-defined]
    with serving(server):
        yield server


def test_a_collector_gets_spans_with_their_parents(collector: Any) -> None:
    tracer = Tracer("s3gen", f"http://127.0.0.1:{collector.server_port}/v1/traces")
    outer = tracer.begin("speech", PARENT)
    inner = tracer.begin("s3gen.speak", outer.traceparent)
    inner.event("first sound")
    inner.end(audio_s=1.5, error=None)
    outer.end()
    end = time.monotonic() + 20
    found: dict[str, Any] = {}
    while len(found) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        for path, body in collector.got:
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert {span.trace_id.hex() for span in found.values()} == {TRACE}
    assert found["speech"].parent_span_id.hex() == "b7ad6b7169203331"
    assert found["s3gen.speak"].parent_span_id == found["speech"].span_id
    assert [event.name for event in found["s3gen.speak"].events] == ["first sound"]
    assert {own.key for own in found["s3gen.speak"].attributes} >= {"audio_s"}


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="traces"):
        ServiceSettings(traces="collector:4318")


@pytest.mark.service
def test_a_request_is_one_trace_through_the_stages(service: Service) -> None:
    body = {"input": "One trace. Two sentences.", "response_format": "pcm"}
    answer = httpx.post(f"{service.url}/v1/audio/speech", json=body, headers={"traceparent": PARENT}, timeout=60)
    assert answer.status_code == 200
    end, spans = time.monotonic() + 30, []
    while len({span["name"] for span in spans}) < 3 and time.monotonic() < end:
        time.sleep(0.2)
        lines = service.spans.read_text().splitlines()
        spans = [span for span in map(json.loads, lines) if span["context"]["trace_id"] == f"0x{TRACE}"]
    ids = {span["name"]: span["context"]["span_id"] for span in spans}
    parents = {span["name"]: span["parent_id"] for span in spans}
    assert parents == {"speech": "0xb7ad6b7169203331", "s3gen.speak": ids["speech"], "t3.speak": ids["s3gen.speak"]}
    (request_id,) = {span["attributes"]["request.id"] for span in spans}
    assert request_id == answer.headers["x-request-id"]
    told = next(span for span in spans if span["name"] == "speech")["attributes"]
    assert (told["outcome"], told["voice"]) == ("ok", "default")
    assert told["audio_s"] == pytest.approx(len(answer.content) / 48_000, abs=0.001)
    assert "text" not in told
