"""Answers in OpenAI's shape: the one map from errors to HTTP, and the audio response."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.exceptions import HTTPException
from starlette.types import Message, Send

from chatterbox_engine.errors import (
    ChatterboxError,
    EngineDead,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    UnknownVoice,
)
from deployments.faults import ServiceEnding, StoreUnavailable
from deployments.job_store import UnknownJob, WrongState


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's fields."""

    message: str
    type: str
    param: str | None
    """The field at fault."""
    code: str | None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "What was asked for cannot be; 429 has retry-after."},
    "5XX": {"model": ErrorBody, "description": "Not the request's fault; 503 has retry-after."},
}
"""For the OpenAPI document."""


_AWAY = (ModelUnavailable, EngineDead, ServiceEnding, StoreUnavailable, RayError, RayServeException)
"""What is not there now and may be soon."""


def error_answer(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None, **headers: str
) -> JSONResponse:
    """OpenAI's shape of an error; headers by their names with underscores."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def answer(error: BaseException) -> JSONResponse:
    """The answer to an error, with a status that says whose fault it is."""
    if isinstance(error, UnknownModel):
        return error_answer(404, str(error), "invalid_request_error", "model", "model_not_found")
    if isinstance(error, InvalidRequest):
        return error_answer(400, str(error), "invalid_request_error", error.param, "invalid_value")
    if isinstance(error, UnknownVoice):
        return error_answer(404, str(error), "invalid_request_error", "voice", "voice_not_found")
    if isinstance(error, UnknownJob):
        return error_answer(404, str(error), "invalid_request_error", "job_id", "job_not_found")
    if isinstance(error, WrongState):
        return error_answer(409, str(error), "invalid_request_error", None, "wrong_state")
    if isinstance(error, Overloaded):
        after = str(max(1, round(error.retry_after)))
        return error_answer(429, str(error), "rate_limit_error", None, "overloaded", retry_after=after)
    if isinstance(error, _AWAY):
        message = str(error) if isinstance(error, ChatterboxError) else "A replica is gone or not ready. Try again."
        return error_answer(503, message, "server_error", None, "unavailable", retry_after="5")
    return error_answer(500, "Something went wrong here; the log has it under the request's id.", "server_error")


def outcome_of(error: BaseException) -> tuple[str, str | None]:
    """How a request ended that an error ended, and by what kind of error: `metrics.OUTCOMES`."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", None
    if isinstance(error, Overloaded):
        return "overloaded", type(error).__name__
    return "refused" if answer(error).status_code < 500 else "failed", type(error).__name__


def _validation(error: RequestValidationError) -> JSONResponse:
    """The first thing wrong with a body, by the field's name."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return error_answer(400, "The body is not valid JSON.", "invalid_request_error", None, "invalid_json")
    param = ".".join(where) or None
    message = f"{param or 'The body'}: {first['msg']}."
    return error_answer(400, message, "invalid_request_error", param, str(first["type"]))


async def _handle(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        return _validation(error)
    if isinstance(error, HTTPException):
        refusal = error_answer(error.status_code, str(error.detail), "invalid_request_error")
        refusal.headers.update(error.headers or {})
        return refusal
    return answer(error)


def install(app: FastAPI) -> None:
    """Give an application these answers."""
    for kind in (ChatterboxError, RequestValidationError, HTTPException, RayError, RayServeException, Exception):
        app.add_exception_handler(kind, _handle)


class UnknownModel(InvalidRequest):
    """A request names a model that is not served."""

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"Model {model!r} is not served here; {served!r} is.", "model")


class AudioResponse(StreamingResponse):
    """Streams audio, and gives up on a client that takes nothing for `stall_s` seconds.

    However it ends, the generator it streams from is closed before it returns.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], stall_s: float, **options: Any) -> None:
        super().__init__(content, **options)
        self._content = content
        self._stall_s = stall_s

    async def stream_response(self, send: Send) -> None:
        async def bounded(message: Message) -> None:
            await asyncio.wait_for(send(message), self._stall_s)

        try:
            await super().stream_response(bounded)
        finally:
            await self._content.aclose()
