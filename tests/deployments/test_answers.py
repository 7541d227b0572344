"""The map from errors to answers, and clients that take nothing."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from chatterbox_engine.errors import EngineDead, InvalidRequest, ModelUnavailable, Overloaded, UnknownVoice
from chatterbox_engine.metrics import OUTCOMES
from deployments.answers import AudioResponse, answer, outcome_of


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (InvalidRequest("Too long.", "input"), 400, "input"),
        (UnknownVoice("bob"), 404, "voice"),
        (Overloaded(2.4), 429, None),
        (ModelUnavailable("No weights."), 503, None),
        (EngineDead("It ended."), 503, None),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_every_error_has_its_status_and_openai_s_shape(error: Exception, status: int, param: str | None) -> None:
    response = answer(error)
    body = json.loads(bytes(response.body))["error"]
    assert response.status_code == status
    assert body["param"] == param
    assert set(body) == {"message", "type", "param", "code"}
    assert "secret" not in body["message"]
    assert (response.headers.get("retry-after") is not None) == (status in (429, 503))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest("Too long.", "input"), "refused"),
        (UnknownVoice("bob"), "refused"),
        (Overloaded(2.4), "overloaded"),
        (ModelUnavailable("No weights."), "failed"),
        (RuntimeError("secret"), "failed"),
    ],
)
def test_what_ended_a_request_is_counted_as_whose_fault_it_is(error: Exception, outcome: str) -> None:
    assert outcome_of(error) == (outcome, type(error).__name__)
    assert outcome in OUTCOMES
    assert outcome_of(asyncio.CancelledError()) == ("cancelled", None)


def test_a_client_that_takes_nothing_is_given_up() -> None:
    """Where the transport holds the sender back, a stalled client ends its stream, and the source is closed."""
    closed = False

    async def source() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed = True

    async def talk() -> None:
        taken = 0

        async def receive() -> Message:
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal taken
            taken += 1
            if taken > 3:
                await asyncio.sleep(3600)

        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        with pytest.raises(ClientDisconnect):
            await AudioResponse(source(), stall_s=0.1)(scope, receive, send)

    asyncio.run(asyncio.wait_for(talk(), 10))
    assert closed
