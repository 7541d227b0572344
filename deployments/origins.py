"""Other sites' pages: those that are named may call the service, by CORS; no other may."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

_ALL = "*"
_TOLD = ("x-seed", "x-request-id", "retry-after")
"""Headers of answers that scripts may read."""


def cors(app: ASGIApp, origins: tuple[str, ...]) -> CORSMiddleware:
    """Answers browsers that ask whether a page of one of the origins may call, and says so in every answer to it."""
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=[_ALL], allow_headers=[_ALL], expose_headers=_TOLD, max_age=3600
    )


def is_foreign(scope: Scope, origins: tuple[str, ...]) -> bool:
    """Whether a browser sends the request for a page of another site, and not of one of the origins.

    Forms, and WebSockets, are sent without asking; only what the browser says of the page's origin tells them.
    """
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if not origin or origin in origins or _ALL in origins:
        return False
    own = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"x-forwarded-host"))
    return urlsplit(origin).netloc not in [host for host in own if host]
