"""The barge-in drill, small, on the running service."""

import asyncio

import pytest

from loadtest.barge_in import run
from tests.service import Service


@pytest.mark.service
def test_places_are_free_and_listeners_hear_everything(service: Service) -> None:
    told = asyncio.run(run(service.url, listeners=2, cancels=6)).told()
    assert told["cancels"] == 6
    assert told["lost"] == told["refused"] == 0
    assert service.wait_until_idle()["streams"] == [0, 0, 0]
