"""Files as answers, whole or in part (RFC 9110, 14)."""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from deployments.answers import REFUSALS, error_answer
from deployments.book import MEDIA_TYPES
from deployments.faults import Stream

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}, "description": "The whole file."},
    206: {"content": {kind: {} for kind in MEDIA_TYPES.values()}, "description": "The part asked for."},
    **REFUSALS,
}
"""For the OpenAPI document."""


def file_answer(
    request: Request, name: str, media_type: str, size: int, read: Callable[[int, int], Stream]
) -> Response:
    """A file of `size` bytes, of which `read` gives those from one place to another. A range that cannot be read as one
    is as none; one behind the end is refused."""
    begin, end, status = 0, size, 200
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked and any(asked.groups()):
        first, last = asked.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        status = 206
        if begin >= end:
            refusal = error_answer(
                416, f"The file has {size} bytes.", "invalid_request_error", "range", "no_such_range"
            )
            refusal.headers["content-range"] = f"bytes */{size}"
            return refusal
    headers = {
        "content-length": str(end - begin),
        "accept-ranges": "bytes",
        "content-disposition": f'attachment; filename="{name}"',
    }
    if status == 206:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return StreamingResponse(_parts(read(begin, end)), status, headers, media_type)


async def _parts(stream: Stream) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream):
        async for part in stream:
            yield part
