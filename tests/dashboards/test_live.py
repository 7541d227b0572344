"""Every dashboard's queries on a real Prometheus that scrapes the real service: every panel shows something."""

import asyncio
import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from chatterbox_engine.exporter import Exporter
from chatterbox_engine.readings import device_readings
from dashboards.boards import BOARDS, render
from loadtest.local_service import free_port
from tests.service import PLACES, Service

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
_WINDOW = "30s"
_DEADLINE_S = 90


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an exporter whose device is made up: it has the device's panels, since there is no GPU here."""
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**34, 2**36))
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 85)
    made_up = device_readings(torch.device("cuda"))
    assert made_up["gpu_busy"] == 0.85
    exporter = Exporter(0, lambda: [(stage, made_up) for stage in ("t3", "s3gen")])
    yield exporter.port
    exporter.close()


@pytest.fixture
def prometheus(service: Service, device: int, tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the session's Ray node, and the made-up device by Ray's names."""
    import ray

    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    config = tmp_path / "prometheus.yaml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {"job_name": "ray", "static_configs": [{"targets": [target]}]},
                    {
                        "job_name": "made-up device",
                        "static_configs": [{"targets": [f"127.0.0.1:{device}"]}],
                        "metric_relabel_configs": [
                            {"source_labels": ["__name__"], "regex": "chatterbox_(vram|gpu).*", "action": "keep"},
                            {"source_labels": ["__name__"], "target_label": "__name__", "replacement": "ray_$1"},
                        ],
                    },
                ],
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


async def more_than_places(service: Service) -> list[int]:
    """What requests get that are more than there are places for."""
    body = {"input": "So many are more than it takes. " * 4}
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as web:
        asked = [web.post("/v1/audio/speech", json=body) for _ in range(2 * PLACES)]
        return [answer.status_code for answer in await asyncio.gather(*asked)]


def test_every_panel_shows_something(service: Service, prometheus: str) -> None:
    boards = [json.loads(render(name)) for name in BOARDS]
    panels = [panel for board in boards for panel in board["panels"] if panel["type"] != "row"]
    missing = {(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]}
    assert 429 in asyncio.run(more_than_places(service))
    job = httpx.post(f"{service.url}/v1/audio/jobs", json={"input": "Hello there."}, timeout=60)
    assert job.status_code == 202
    begin = time.monotonic()
    while missing and time.monotonic() - begin < _DEADLINE_S:
        said = httpx.post(f"{service.url}/v1/audio/speech", json={"input": "Hello there."}, timeout=60)
        assert said.status_code == 200
        missing = {(t, e) for t, e in missing if not any(math.isfinite(v) for v in values(prometheus, e))}
        time.sleep(0.5)
    assert not missing
