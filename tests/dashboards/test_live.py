"""The overview's queries on a real Prometheus that scrapes the real service: every panel shows something."""

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dashboards.overview import render
from loadtest.local_service import free_port
from tests.service import Service

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
_WINDOW = "30s"
_DEADLINE_S = 90


@pytest.fixture
def prometheus(service: Service, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the session's Ray node."""
    import ray

    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    config = tmp_path / "prometheus.yaml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def values(prometheus: str, expr: str) -> list[float]:
    """What an instant query gives now; nothing while Prometheus starts."""
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expr.replace("$__rate_interval", _WINDOW)})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, answer.text
    return [float(series["value"][1]) for series in answer.json()["data"]["result"]]


def test_every_panel_shows_something(service: Service, prometheus: str) -> None:
    panels = [panel for panel in json.loads(render())["panels"] if panel["type"] != "row"]
    missing = {
        (panel["title"], target["expr"])
        for panel in panels
        for target in panel["targets"]
        if "vram" not in target["expr"]  # exported only where there is a GPU
    }
    job = httpx.post(f"{service.url}/v1/audio/jobs", json={"input": "Hello there."}, timeout=60)
    assert job.status_code == 202
    begin = time.monotonic()
    while missing and time.monotonic() - begin < _DEADLINE_S:
        said = httpx.post(f"{service.url}/v1/audio/speech", json={"input": "Hello there."}, timeout=60)
        assert said.status_code == 200
        missing = {(t, e) for t, e in missing if not any(math.isfinite(v) for v in values(prometheus, e))}
        time.sleep(0.5)
    assert not missing
