"""The map from errors to answers, the limit on bodies, and clients that take nothing."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from chatterbox_engine.errors import EngineDead, InvalidRequest, ModelUnavailable, Overloaded, UnknownVoice
from deployments.answers import AudioResponse, answer, install


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


async def post(app: FastAPI, parts: list[bytes], headers: list[tuple[bytes, bytes]], **state: int) -> tuple[int, dict]:
    """Send a body in parts to an ASGI application."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers,
             "http_version": "1.1", "scheme": "http", "state": state}  # fmt: skip
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(body)


def application() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    return app


@pytest.mark.parametrize("declared", [True, False])
def test_bodies_beyond_the_limit_are_413_declared_or_not(declared: bool) -> None:
    part = b"x" * 2**18
    headers = [(b"content-length", str(8 * len(part)).encode())] if declared else []
    status, body = asyncio.run(post(application(), [part] * 8, headers))
    assert status == 413
    assert body["error"]["code"] == "too_large"
    assert asyncio.run(post(application(), [part] * 2, [])) == (200, 2 * len(part))


def test_a_clip_may_be_as_large_as_the_settings_say() -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    parts = [b"x" * 2**18] * 8
    assert asyncio.run(post(application(), parts, headers, max_upload_bytes=2**21)) == (200, 2**21)
    for limit in (2**20, 0):
        assert asyncio.run(post(application(), parts, headers, max_upload_bytes=limit))[0] == 413


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
