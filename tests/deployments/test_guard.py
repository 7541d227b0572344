"""The door: keys, limits, and who is let in without any."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatterbox_engine.errors import InvalidRequest
from deployments import keys
from deployments.admission import Gate
from deployments.caller import ANYBODY, Caller
from deployments.guard import Door, Guard, check, key_protocol
from deployments.metrics import IngressMetrics
from deployments.settings import ServiceSettings
from deployments.tracing import Tracer


async def who(request: Request) -> JSONResponse:
    caller: Caller = request.state.caller
    return JSONResponse({"name": caller.name, "shelf": caller.shelf, "streams": caller.streams})


async def talk(socket: WebSocket) -> None:
    await socket.accept(key_protocol(socket.scope["subprotocols"]))
    await socket.send_text(str(socket.state.caller.name))
    await socket.close()


def client(monkeypatch: pytest.MonkeyPatch, host: str = "203.0.113.7", **settings: Any) -> TestClient:
    """Of an application behind the door, for somebody who comes from `host`."""
    door = Door(ServiceSettings(**settings))
    monkeypatch.setattr(
        serve, "get_replica_context", lambda: SimpleNamespace(servable_object=SimpleNamespace(door=door))
    )
    routes = [Route(path, who, methods=["GET", "POST"]) for path in ("/", "/health", "/v1/voices")]
    app = Starlette(routes=[*routes, WebSocketRoute("/ws", talk)])
    app.add_middleware(Guard)
    return TestClient(app, "http://localhost", client=(host, 1234))


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[TestClient, dict[str, str]]:
    file = tmp_path / "keys.json"
    made = {
        "anna": keys.add(file, "anna", streams=1),
        "ben": keys.add(file, "ben", requests_per_minute=2),
        "root": keys.add(file, "root", shared_voices=True),
    }
    return client(monkeypatch, keys_file=file), made


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_who_shows_a_key_is_known_by_it(keyed: tuple[TestClient, dict[str, str]]) -> None:
    web, made = keyed
    assert web.get("/v1/voices", headers=bearer(made["anna"])).json() == {"name": "anna", "shelf": "anna", "streams": 1}
    assert web.get("/v1/voices", headers={"authorization": f"bearer  {made['root']}"}).json()["shelf"] is None


@pytest.mark.parametrize("headers", [{}, bearer("cbx-wrong"), bearer(""), {"authorization": "Basic YTpi"}])
def test_who_shows_none_is_not_let_in(keyed: tuple[TestClient, dict[str, str]], headers: dict[str, str]) -> None:
    web, _ = keyed
    refused = web.post("/v1/voices", headers=headers, content=b"x" * 1000)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")
    assert web.get("/", headers=headers).status_code == 200
    assert web.get("/health", headers=headers).status_code == 200


def test_a_websocket_names_its_key_by_header_or_subprotocol(keyed: tuple[TestClient, dict[str, str]]) -> None:
    web, made = keyed
    with web.websocket_connect("/ws", headers=bearer(made["anna"])) as socket:
        assert socket.receive_text() == "anna"
    with web.websocket_connect("/ws", subprotocols=[f"chatterbox.key.{made['root']}"]) as socket:
        assert socket.accepted_subprotocol == f"chatterbox.key.{made['root']}"
        assert socket.receive_text() == "root"
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), web.websocket_connect("/ws"):
        pass


def test_a_key_has_so_many_requests_a_minute(keyed: tuple[TestClient, dict[str, str]]) -> None:
    web, made = keyed
    statuses = [web.get("/v1/voices", headers=bearer(made["ben"])).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = web.get("/v1/voices", headers=bearer(made["ben"]))
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert web.get("/v1/voices", headers=bearer(made["anna"])).status_code == 200


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("203.0.113.7", {}, 403),
        ("testclient", {}, 403),
        ("203.0.113.7", {"open_to_network": True}, 200),
    ],
)
def test_without_keys_only_this_machine_is_served(
    monkeypatch: pytest.MonkeyPatch, host: str, settings: dict[str, Any], status: int
) -> None:
    answer = client(monkeypatch, host, **settings).get("/v1/voices")
    assert answer.status_code == status
    if status == 403:
        assert "keys_file" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "192.168.1.5", "localhost.evil.example", "[::2]"]
)
def test_without_keys_another_name_does_not_lead_here(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a page has it that makes its own site's name point to this machine."""
    web = client(monkeypatch, HERE)
    for headers in ({"host": name}, {"host": name, "origin": f"http://{name}"}):
        assert web.post("/v1/voices", headers=headers).json()["error"]["code"] == "no_keys"
        assert not connects(web, headers)
    assert web.get("/health", headers={"host": name}).status_code == 200
    named = client(monkeypatch, HERE, cors_origins=(f"http://{name}",))
    assert named.post("/v1/voices", headers={"host": name}).status_code == 200
    assert client(monkeypatch, HERE, open_to_network=True).get("/v1/voices", headers={"host": name}).status_code == 200


@pytest.mark.parametrize("name", ["localhost", "localhost:8000", "127.0.0.1", "127.8.0.1:80", "[::1]:8000", ""])
def test_this_machine_goes_by_its_own_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert client(monkeypatch, HERE).get("/v1/voices", headers={"host": name}).status_code == 200


def test_behind_haproxy_the_settings_must_say_who_may_come_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check(ServiceSettings())
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(InvalidRequest, match="hides where clients come from"):
        check(ServiceSettings())
    check(ServiceSettings(open_to_network=True))
    check(ServiceSettings(keys_file=tmp_path / "keys.json"))


def test_every_answer_tells_browsers_to_be_careful(keyed: tuple[TestClient, dict[str, str]]) -> None:
    web, made = keyed
    for answer in (web.get("/"), web.get("/v1/voices"), web.get("/v1/voices", headers=bearer(made["anna"]))):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


HERE = "127.0.0.1"
SITE = {"origin": "https://app.example.com"}
ASKS = {**SITE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def connects(web: TestClient, headers: dict[str, str]) -> bool:
    try:
        with web.websocket_connect("/ws", headers={"host": "localhost", **headers}) as socket:
            socket.receive_text()
        return True
    except (WebSocketDisconnect, WebSocketDenialResponse):
        return False


def test_another_sites_page_is_refused_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of whatever site is open in the browser could use the machine's own service otherwise."""
    web = client(monkeypatch, HERE)
    for origin in ("https://app.example.com", "http://localhost.example.com", "http://localhost:81", "null"):
        refused = web.post("/v1/voices", headers={"origin": origin})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin")
        assert not connects(web, {"origin": origin})
    for own in ({}, {"origin": "http://localhost"}, {**SITE, "x-forwarded-host": "app.example.com"}):
        assert web.post("/v1/voices", headers=own).status_code == 200
        assert connects(web, own)
    assert "access-control-allow-origin" not in web.options("/v1/voices", headers=ASKS).headers


@pytest.mark.parametrize("origins", [("https://app.example.com",), ("*",)])
def test_a_site_that_is_named_may_call(monkeypatch: pytest.MonkeyPatch, origins: tuple[str, ...]) -> None:
    web = client(monkeypatch, HERE, cors_origins=origins)
    allowed = "*" if origins == ("*",) else SITE["origin"]
    asked = web.options("/v1/voices", headers=ASKS)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, allowed)
    answer = web.post("/v1/voices", headers=SITE)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, allowed)
    assert "x-seed" in answer.headers["access-control-expose-headers"]
    assert connects(web, SITE)
    other = web.post("/v1/voices", headers={"origin": "https://other.example.com"})
    assert other.status_code == (200 if origins == ("*",) else 403)


def test_with_keys_a_named_site_is_asked_for_one_and_reads_the_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = keys.add(tmp_path / "keys.json", "anna")
    web = client(monkeypatch, keys_file=tmp_path / "keys.json", cors_origins=(SITE["origin"],))
    assert web.options("/v1/voices", headers=ASKS).status_code == 200
    refused = web.post("/v1/voices", headers=SITE)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE["origin"])
    assert web.post("/v1/voices", headers={**SITE, **bearer(key)}).status_code == 200


def test_a_missing_file_of_keys_stops_the_service_from_starting(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Door(ServiceSettings(keys_file=tmp_path / "nowhere.json"))


def test_a_key_has_so_many_streams_at_a_time() -> None:
    from chatterbox_engine.errors import Overloaded

    gate = Gate(3, IngressMetrics(), Tracer("ingress", None))
    anna = Caller("anna", 1)
    first = gate.enter(anna)
    with pytest.raises(Overloaded, match="anna"):
        gate.enter(anna)
    others = [gate.enter(Caller("ben")), gate.enter(ANYBODY)]
    with pytest.raises(Overloaded, match="All places"):
        gate.enter(Caller("carl", 5))
    first.end("ok")
    first.end("ok")
    gate.enter(anna).end("ok")
    for ticket in others:
        ticket.end("ok")
    assert gate.live == 0
