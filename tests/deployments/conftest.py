"""What holds for every test of the deployments."""

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def nothing_kills_the_tests() -> Iterator[None]:
    """See replica.py: a deployment made in this process has to go without its watcher."""
    yield
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
