"""The overview as text: what it shows follows from what two looks at the exporters saw."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import top
from dashboards.__main__ import main
from dashboards.top import NoMetrics, Snapshot, addresses, frame, quantile
from loadtest.local_service import free_port
from tests.service import Service


def page(live: int, busy: float, audio: float, ok: int, quick: int, slow: int) -> str:
    """As Ray exports it, two replicas of S3Gen among them."""
    return f"""
# TYPE ray_chatterbox_streams_live gauge
ray_chatterbox_streams_live{{deployment="Ingress"}} {live}
# TYPE ray_chatterbox_s3gen_busy_seconds_total counter
ray_chatterbox_s3gen_busy_seconds_total{{replica="a"}} {busy}
ray_chatterbox_s3gen_busy_seconds_total{{replica="b"}} {busy}
# TYPE ray_chatterbox_s3gen_audio_seconds_total counter
ray_chatterbox_s3gen_audio_seconds_total{{replica="a"}} {audio}
# TYPE ray_chatterbox_s3gen_heard_seconds_total counter
ray_chatterbox_s3gen_heard_seconds_total{{replica="a"}} {audio / 2}
# TYPE ray_chatterbox_s3gen_stalled_seconds_total counter
ray_chatterbox_s3gen_stalled_seconds_total{{replica="a"}} {audio / 100}
# TYPE ray_chatterbox_requests_total counter
ray_chatterbox_requests_total{{outcome="ok"}} {ok}
# TYPE ray_chatterbox_first_audio_seconds histogram
ray_chatterbox_first_audio_seconds_bucket{{le="0.1"}} {quick}
ray_chatterbox_first_audio_seconds_bucket{{le="0.5"}} {quick + slow}
ray_chatterbox_first_audio_seconds_bucket{{le="+Inf"}} {quick + slow}
# TYPE ray_something_else gauge
ray_something_else 7
"""


def test_a_frame_says_what_happened_in_between() -> None:
    before = Snapshot.of([page(1, 10.0, 100.0, 50, 5, 5)], 0.0)
    now = Snapshot.of([page(3, 10.5, 110.0, 70, 15, 15), page(2, 0.0, 0.0, 0, 0, 0)], 2.0)
    said = frame(before, now)
    assert "5 live" in said
    assert "10.0 ok" in said
    assert "silence 2.00 %" in said
    s3gen = next(line for line in said.splitlines() if line.startswith("S3Gen"))
    assert s3gen.split()[3:] == ["50", "%", "5.0", "0.100"]
    assert "0.10 s (p50), 0.46 s (p95)" in said


def test_rates_are_of_a_window_that_what_is_exported_fits_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A counter that comes every ten seconds, looked at every two, of a replica that works half of its time."""
    now = 0.0

    def looked(_: Any) -> tuple[Snapshot, list[str]]:
        exported = now // 10 * 10
        return Snapshot.of([page(1, exported / 4, exported, 0, 0, 0)], now), []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(top, "snapshot", looked)
    monkeypatch.setattr(top.time, "sleep", sleep)
    top.run(["a:1"], 2.0, 40)
    busy = [line.split()[3] for line in capsys.readouterr().out.splitlines() if line.startswith("S3Gen")]
    assert set(busy[15:]) == {"50"}


def test_a_node_that_does_not_answer_is_named_and_the_others_shown(capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"127.0.0.1:{free_port()}"
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as there:
        threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        top.run([gone, f"127.0.0.1:{there.server_port}"], 0.0, 1)
        there.shutdown()
    told = capsys.readouterr().out
    assert f"no answer from http://{gone}/metrics" in told
    assert "3 live" in told
    with pytest.raises(NoMetrics, match=gone):
        top.run([gone], 0.0, 1)


class Page(BaseHTTPRequestHandler):
    """An exporter's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page(3, 1.0, 1.0, 1, 1, 1).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_where_nothing_happened_nothing_is_made_up() -> None:
    quiet = Snapshot.of([page(0, 1.0, 1.0, 1, 1, 1)], 0.0)
    said = frame(quiet, quiet)
    assert "first audio - (p50), - (p95)" in said
    assert said.count(" - ") >= 2
    assert quantile(quiet, quiet, "first_audio_seconds", 0.5) is None


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.floats(0.01, 1.0))
def test_a_quantile_lies_within_the_bounds_that_have_it(counts: list[int], q: float) -> None:
    bounds = [float(2**place) for place in range(len(counts))]
    totals = [sum(counts[: place + 1]) for place in range(len(counts))]
    now = Snapshot(1.0)
    now.buckets["x"].update(zip(bounds, totals, strict=True))
    found = quantile(Snapshot(0.0), now, "x", q)
    if not totals[-1]:
        assert found is None
        return
    place = next(place for place, total in enumerate(totals) if total >= q * totals[-1])
    assert found is not None
    assert (bounds[place - 1] if place else 0.0) <= found <= bounds[place]


def test_where_nobody_exports_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoMetrics, match="--metrics"):
        addresses(tmp_path / "none.json")
    assert main(["top", "--metrics", "127.0.0.1:9", "--times", "1"]) == 1
    assert "Does the service run?" in capsys.readouterr().err
    found = tmp_path / "found.json"
    found.write_text(json.dumps([{"labels": {}, "targets": ["10.0.0.1:80", "10.0.0.2:80"]}]))
    assert addresses(found) == ["http://10.0.0.1:80/metrics", "http://10.0.0.2:80/metrics"]


@pytest.mark.service
def test_it_shows_the_running_service(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    assert main(["top", "--metrics", target, "--period", "1", "--times", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("listeners  ") == 2
    assert "S3Gen" in said
