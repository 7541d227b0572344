"""Other sites' pages: those that are named may call the service, by CORS; no other may."""

import ipaddress
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


def is_loopback(host: str) -> bool:
    """An address of this machine that no other can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_here(scope: Scope, origins: tuple[str, ...]) -> bool:
    """Whether the request is for this machine by its own name, or by that of one of the origins.

    A page can have its own site's name lead here (DNS rebinding), so that the browser takes the service for that site.
    """
    name = urlsplit(f"//{_header(scope, b'host')}").hostname
    own = name is None or name == "localhost" or is_loopback(name)  # no browser leaves it out
    return own or _ALL in origins or name in [urlsplit(origin).hostname for origin in origins]


def is_foreign(scope: Scope, origins: tuple[str, ...]) -> bool:
    """Whether a browser sends the request for a page of another site, and not of one of the origins.

    Forms, and WebSockets, are sent without asking; only what the browser says of the page's origin tells them.
    """
    origin = _header(scope, b"origin")
    if not origin or origin in origins or _ALL in origins:
        return False
    own = (_header(scope, name) for name in (b"host", b"x-forwarded-host"))
    return urlsplit(origin).netloc not in [host for host in own if host]


def _header(scope: Scope, name: bytes) -> str:
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    return headers.get(name, b"").decode("latin-1")
