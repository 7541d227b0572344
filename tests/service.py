"""One Ray cluster and one service for the whole session."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from loadtest.local_service import free_port

PLACES = 6
"""Streams that the service takes at once."""


@dataclass(frozen=True)
class Service:
    """A running service, as a client sees it."""

    url: str
    voices_folder: Path
    spans: Path
    """Where its traces go."""

    def live(self) -> dict[str, Any]:
        """Streams at each stage, and tasks of the stages' event loops."""
        live = httpx.get(f"{self.url}/health", timeout=30).json()["live"]
        t3, s3gen = live["t3"], live["s3gen"]
        return {
            "streams": [live["ingress"], t3["running"] + t3["waiting"], s3gen["running"]],
            "tasks": t3["tasks"] + s3gen["tasks"],
        }

    def wait_until_idle(self, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until no stage has a stream; fails if that takes longer."""
        end = time.monotonic() + seconds
        while (live := self.live())["streams"] != [0, 0, 0]:
            assert time.monotonic() < end, live
            time.sleep(0.1)
        return live

    def wait_until_well(self, seconds: float = 90.0) -> None:
        """Wait until /health is 200."""
        end = time.monotonic() + seconds
        while httpx.get(f"{self.url}/health", timeout=30).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.5)

    def replica(self, deployment: str) -> psutil.Process:
        """The process of a deployment's replica."""
        name = f"ray::ServeReplica:chatterbox:{deployment}"
        found = [p for p in psutil.Process().children(recursive=True) if name in " ".join(p.cmdline())]
        assert len(found) == 1, found
        return found[0]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real application on the demo model, on two cores."""
    import ray
    from ray import serve

    from deployments.app import build
    from deployments.settings import ServiceSettings

    folder = tmp_path_factory.mktemp("voices")
    spans = tmp_path_factory.mktemp("traces") / "spans.jsonl"
    port = free_port()
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = ServiceSettings(
        model="dummy:tiny",
        device="cpu",
        voices_folder=folder,
        jobs_folder=tmp_path_factory.mktemp("jobs"),
        traces=f"file://{spans}",
        # By places and schedule alone, so that what tests see does not hang on how busy the machine is.
        switches={"s3gen": {"max_streams": PLACES, "admission": "places", "hurry_s": None}},
    )
    serve.run(build(settings), name="chatterbox", route_prefix="/", logging_config={"log_level": "WARNING"})
    yield Service(f"http://127.0.0.1:{port}", folder, spans)
    serve.shutdown()
    ray.shutdown()
