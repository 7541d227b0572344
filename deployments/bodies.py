"""Limits on what clients send: how large a body is, how long it takes, and how many clips come at a time."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.answers import error_answer

_MAX_JSON_BYTES = 2**20
_MAX_JOB_BYTES = 8 * 2**20
_JOBS = "/v1/audio/jobs"
_MULTIPART_BYTES = 2**16
"""What a multipart body has beside its file."""
_UPLOADS = 8
"""Clips that are received and listened to at a time: each may take its size, and five times as much decoded."""
_BODY_S = 120.0
"""A body has come by then: 20 MB at 1.4 Mbit/s."""


class BodyLimit:
    """Refuses bodies that are too large, by their declared length before a byte is read, else while reading, and those
    that take too long.

    The guard, which comes before, has put into the state how large a clip may be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            limit = _MAX_JOB_BYTES if scope["path"].endswith(_JOBS) else _MAX_JSON_BYTES
            await self._limited(limit, headers, scope, receive, send)
        elif self._uploads >= _UPLOADS:
            message = f"{_UPLOADS} clips are being listened to already. Try again."
            busy = error_answer(429, message, "rate_limit_error", None, "overloaded", retry_after="2")
            await busy(scope, receive, send)
        else:
            self._uploads += 1
            try:
                clip: int = scope.get("state", {}).get("max_upload_bytes", 0)
                await self._limited(clip + _MULTIPART_BYTES, headers, scope, receive, send)
            finally:
                self._uploads -= 1

    async def _limited(
        self, limit: int, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = "invalid_request_error"
        large = error_answer(413, f"The body is larger than {limit} bytes.", kind, None, "too_large")
        slow = error_answer(408, f"The body has not come within {_BODY_S:g} s.", kind, None, "too_slow")
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await large(scope, receive, send)
            return
        read, until, whole = 0, time.monotonic() + _BODY_S, False
        refusal = None

        async def counted() -> Message:
            """What ends the reading here is said in words by `guarded`."""
            nonlocal read, whole, refusal
            try:
                message = await asyncio.wait_for(receive(), None if whole else until - time.monotonic())
            except TimeoutError:
                refusal = slow
                raise HTTPException(408) from None
            whole = whole or not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > limit:
                refusal = large
                raise HTTPException(413)
            return message

        async def guarded(message: Message) -> None:
            if refusal is None:
                await send(message)
            elif message["type"] == "http.response.start":
                await refusal(scope, receive, send)

        await self._app(scope, counted, guarded)
