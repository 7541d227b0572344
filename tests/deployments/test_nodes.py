"""The service on three nodes: where its replicas are, who may join, and a node that is lost."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtest.local_service import free_port
from tests.nodes import Nodes

pytestmark = pytest.mark.service
TEXT = " ".join(f"Sentence number {i} is here to be spoken." for i in range(9))
STREAMS = 3


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """In a folder with a short name: Ray's sockets lie in it, and a socket's path is 107 bytes at most."""
    with (
        tempfile.TemporaryDirectory(prefix="cbx-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Nodes(Path(folder), free_port()) as running,
    ):
        yield running


def speak(nodes: Nodes, seed: int) -> httpx.Response:
    body = {"input": TEXT, "seed": seed, "response_format": "pcm"}
    return httpx.post(f"{nodes.url}/v1/audio/speech", json=body, timeout=180)


def test_replicas_are_where_the_resources_are(nodes: Nodes) -> None:
    assert nodes.replicas == {"front": ["Ingress", "Jobs", "Voices"], "back": ["T3"], "voice": ["S3Gen", "T3"]}


def test_who_has_no_token_is_refused(nodes: Nodes) -> None:
    """RAY_AUTH_MODE=token, which the cluster was started with; GCS listens on every interface."""
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", nodes.address],
            env=stranger | wrong,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode
        assert "InvalidAuthToken" in done.stderr


def test_a_lost_node_of_t3_is_not_heard(nodes: Nodes) -> None:
    """Streams are S3Gen's, on another node; T3's part of them goes on there. They are what they are undisturbed."""
    expected = [speak(nodes, seed).content for seed in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = [pool.submit(speak, nodes, seed) for seed in range(STREAMS)]
        end = time.monotonic() + 60
        while httpx.get(f"{nodes.url}/health", timeout=60).json()["live"]["s3gen"]["running"] < STREAMS:
            assert time.monotonic() < end
        nodes.lose("back")
        made = [answer.result() for answer in answers]
    assert [answer.status_code for answer in made] == [200] * STREAMS
    assert [answer.content for answer in made] == expected
    assert nodes.replicas == {"front": ["Ingress", "Jobs", "Voices"], "voice": ["S3Gen", "T3"]}
    assert speak(nodes, 0).content == expected[0]
    assert "another replica goes on" in nodes.log("S3Gen")  # the lost T3 had one of the streams
