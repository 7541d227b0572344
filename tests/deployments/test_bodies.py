"""Bodies: too large, too slow, too many."""

import asyncio
import json

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message

from deployments import bodies
from deployments.answers import install
from deployments.bodies import BodyLimit


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
    app.add_middleware(BodyLimit)

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


CLIP = [(b"content-type", b"multipart/form-data; boundary=x")]


async def send_slowly(app: FastAPI, *, ends: asyncio.Event) -> tuple[int, dict]:
    """Half of a clip; the other half when `ends` is set."""
    parts = [{"type": "http.request", "body": b"x" * 100, "more_body": True}]
    sent: list[Message] = []

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await ends.wait()
        return {"type": "http.request", "body": b"x" * 100, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": CLIP,
             "http_version": "1.1", "scheme": "http", "state": {"max_upload_bytes": 1000}}  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_BODY_S", 0.2)
    status, body = asyncio.run(send_slowly(application(), ends=asyncio.Event()))
    assert (status, body["error"]["code"]) == (408, "too_slow")


def test_so_many_clips_come_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_UPLOADS", 2)

    async def come() -> None:
        app, ends = application(), asyncio.Event()
        coming = [asyncio.create_task(send_slowly(app, ends=ends)) for _ in range(2)]
        await asyncio.sleep(0.05)
        status, body = await post(app, [b"x"], CLIP, max_upload_bytes=1000)
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert (await post(app, [b"x"], []))[0] == 200  # what is no clip
        ends.set()
        assert await asyncio.gather(*coming) == [(200, 200)] * 2
        assert (await post(app, [b"x"], CLIP, max_upload_bytes=1000))[0] == 200

    asyncio.run(come())
