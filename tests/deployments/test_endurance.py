"""Many requests in a row: the service must not grow."""

import concurrent.futures

import httpx
import psutil
import pytest

from tests.service import Service

pytestmark = [pytest.mark.service, pytest.mark.slow]
WARM_UP, REQUESTS, MOST_GROWTH = 150, 1000, 50 * 2**20


def memory() -> int:
    """Bytes that belong to the service's processes alone: replicas, proxy, controller."""
    processes = [p for p in psutil.Process().children(recursive=True) if "ray::" in "".join(p.cmdline()[:1])]
    return sum(p.memory_full_info().uss for p in processes)


def test_a_thousand_requests_leave_the_service_as_large_as_before(service: Service) -> None:
    def speak(i: int) -> int:
        body = {"input": f"Number {i}.", "response_format": "pcm"}
        return httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert set(pool.map(speak, range(WARM_UP))) == {200}
        before = memory()
        assert set(pool.map(speak, range(REQUESTS))) == {200}
    growth = memory() - before
    print(f"{REQUESTS} requests: {growth / 2**20:+.1f} MB over {before / 2**20:.0f} MB")
    assert growth < MOST_GROWTH
