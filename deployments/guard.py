"""The door: who is asking, how often, and what every answer says to browsers."""

import math
import os
import time
from collections.abc import Mapping
from typing import Any, cast

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatterbox_engine.errors import InvalidRequest
from deployments.answers import error_answer
from deployments.caller import ANYBODY, Caller
from deployments.keys import Key, KeyRing
from deployments.origins import cors, is_foreign, is_loopback, names_here
from deployments.settings import ServiceSettings

_OPEN = frozenset(("/", "/page.js", "/health"))
"""Paths that need no key: the page, which asks for one, and what a load balancer asks."""
_PROTOCOL = "chatterbox.key."
"""A browser's WebSocket cannot send headers: it names the key as a subprotocol, with this before it."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def check(settings: ServiceSettings) -> None:
    """Raises InvalidRequest where it could not be seen who comes from this machine, and nothing else tells who may
    come in: behind Ray's HAProxy all clients seem to."""
    hidden = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if hidden and settings.keys_file is None and not settings.open_to_network:
        raise InvalidRequest(
            "RAY_SERVE_ENABLE_HA_PROXY=1 hides where clients come from. Set keys_file, or open_to_network where "
            "http_options.host is 127.0.0.1 or something in front asks for keys.",
            "keys_file",
        )


class Refused(Exception):
    """A status and why."""

    def __init__(self, status: int, message: str, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class Door:
    """What the settings say of who may come in. Counts in this process alone, which is the service's one ingress."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Raises InvalidRequest, FileNotFoundError where the keys' file cannot be used."""
        self._keys = KeyRing(settings.keys_file) if settings.keys_file is not None else None
        self._open_to_network = settings.open_to_network
        self.origins = settings.cors_origins
        self.max_upload_bytes = settings.max_upload_bytes
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def admit(self, presented: str | None, here: bool, foreign: bool) -> Caller:
        """The caller who presents a key; `here`: from this machine, by its own name; `foreign`: for another site's
        page. Raises Refused."""
        if self._keys is None:
            if foreign:
                message = (
                    "Another site's page asks. If it may, name its origin among cors_origins in serve_config.yaml."
                )
                raise Refused(403, message, "foreign_origin")
            if self._open_to_network or here:
                return ANYBODY
            raise Refused(
                403,
                "This service has no keys and answers its own machine alone, as localhost. Set keys_file in "
                "serve_config.yaml (docs/operations.md), or open_to_network where something in front asks for keys.",
                "no_keys",
            )
        if presented is None:
            raise Refused(401, "An API key is needed: Authorization: Bearer KEY.", "missing_api_key")
        key = self._keys.find(presented)
        if key is None:
            raise Refused(401, "The API key is not one of this service's.", "invalid_api_key")
        self._count(key)
        return Caller(key.name, key.streams, key.shared_voices)

    def _count(self, key: Key) -> None:
        if key.requests_per_minute is None:
            return
        item = RateLimitItemPerMinute(key.requests_per_minute)
        if not self._limiter.hit(item, key.name):
            reset, _ = self._limiter.get_window_stats(item, key.name)
            after = max(1, math.ceil(reset - time.time()))
            message = f"The key {key.name!r} may make {key.requests_per_minute} requests a minute."
            raise Refused(429, message, "rate_limit_exceeded", after)


class Guard:
    """Asks at the door of the ingress in whose process it runs, before a body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._cors: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and (origins := _door().origins):
            if self._cors is None:
                self._cors = cors(self._guarded, origins)
            await self._cors(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope.setdefault("state", {}).update(self._let_in(scope))
        except Refused as refused:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(refused)})
                return
            headers = {"www_authenticate": "Bearer"} if refused.status == 401 else {}
            if refused.retry_after is not None:
                headers["retry_after"] = str(refused.retry_after)
            kind = {401: "authentication_error", 403: "permission_error"}.get(refused.status, "rate_limit_error")
            answer = error_answer(refused.status, str(refused), kind, None, refused.code, **headers)
            await answer(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _let_in(self, scope: Scope) -> dict[str, Any]:
        """The request's state: whose it is, and how large a clip may be. Raises Refused."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if scope["type"] == "http" and path in _OPEN:
            return {"caller": ANYBODY}
        door = _door()
        client = scope.get("client")
        here = client is not None and is_loopback(client[0]) and names_here(scope, door.origins)
        caller = door.admit(_presented(scope), here, is_foreign(scope, door.origins))
        return {"caller": caller, "max_upload_bytes": door.max_upload_bytes}


def _door() -> Door:
    return cast(Door, cast(Any, serve.get_replica_context().servable_object).door)


def _presented(scope: Scope) -> str | None:
    """The key in the Authorization header, or among a WebSocket's subprotocols."""
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and key:
        return key.strip()
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(_PROTOCOL):
            return str(protocol.removeprefix(_PROTOCOL))
    return None


def key_protocol(subprotocols: list[str]) -> str | None:
    """The subprotocol that named the key, to be accepted as such."""
    return next((protocol for protocol in subprotocols if protocol.startswith(_PROTOCOL)), None)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
