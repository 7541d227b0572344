"""Both stages in one replica say what they say in two."""

import asyncio
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import torch

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.types import SamplingParams, SpeechRequest
from deployments.runtime import Runtime
from deployments.s3gen import S3Gen
from deployments.settings import ServiceSettings
from tests.deployments.replica import replica
from tests.service import Service

pytestmark = pytest.mark.service
TEXT = "Hello there. This is said by one replica alone."
STEADY = {"s3gen": {"admission": "places", "hurry_s": None}}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a stage has it in the running service; replicas set it for their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


async def spoken(request: SpeechRequest) -> tuple[np.ndarray, dict[str, dict[str, int]]]:
    """The audio of a replica that has a T3 of its own, and what it says of itself afterwards."""
    settings = ServiceSettings(model="dummy:tiny", device="cpu", layout="colocated", switches=STEADY)
    s3gen = replica(S3Gen, settings, Runtime("cpu", 1, "test"), None, None)
    assert set(await s3gen.identities()) == {"t3", "s3gen"}
    parts = []
    async for chunk in s3gen.speak(request):
        if isinstance(chunk, Exception):
            raise chunk
        parts.append(chunk.samples)
    s3gen.check_health()
    return np.concatenate(parts), await s3gen.live()


def test_it_is_what_two_replicas_say(service: Service, one_thread: None) -> None:
    body = {"input": TEXT, "seed": 5, "response_format": "pcm"}
    apart = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60)
    defaults = httpx.get(f"{service.url}/v1/models", timeout=30).json()["data"][0]["defaults"]
    request = SpeechRequest(TEXT, "default", SamplingParams(**{**defaults, "seed": 5}), "en", 1.0)
    together, live = asyncio.run(spoken(request))
    samples = np.frombuffer(apart.content, np.int16) / 32768
    assert len(samples) == len(together)
    assert np.abs(samples - together).max() < 1e-3
    assert live["t3"]["running"] == live["t3"]["waiting"] == live["s3gen"]["running"] == 0


def test_what_t3_refuses_is_refused(service: Service, one_thread: None) -> None:
    request = SpeechRequest("Hello. " * 30, "default", SamplingParams(max_new_tokens=4096), "en", 1.0)
    with pytest.raises(InvalidRequest, match="max_positions"):
        asyncio.run(spoken(request))
