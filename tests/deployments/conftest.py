"""One Ray cluster and one service for the whole session."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

# Under `uv run`, Ray would copy the project and build a second environment for its workers.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

PLACES = 6
"""Streams that the service takes at once."""


@dataclass(frozen=True)
class Service:
    """A running service, as a client sees it."""

    url: str
    voices_folder: Path

    def live(self) -> dict[str, Any]:
        """Streams at each stage."""
        live = httpx.get(f"{self.url}/health", timeout=30).json()["live"]
        return {"ingress": live["ingress"], "t3": live["t3"]["running"], "s3gen": live["s3gen"]["running"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real application on the demo model, on two cores."""
    import ray
    from ray import serve

    from deployments.app import build
    from deployments.settings import ServiceSettings

    folder = tmp_path_factory.mktemp("voices")
    port = free_port()
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = ServiceSettings(
        model="demo", device="cpu", voices_folder=folder, switches={"s3gen": {"max_streams": PLACES}}
    )
    serve.run(build(settings), name="chatterbox", route_prefix="/", logging_config={"log_level": "WARNING"})
    yield Service(f"http://127.0.0.1:{port}", folder)
    serve.shutdown()
    ray.shutdown()
