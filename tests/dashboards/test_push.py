"""`python -m dashboards push` against a real HTTP server that answers as Grafana's API does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dashboards.__main__ import main
from dashboards.boards import BOARDS, render
from loadtest.local_service import free_port
from tests.web import serving

TOKEN = "glsa_test"
UIDS = {name: f"chatterbox-{name}" for name in BOARDS}
PROMETHEUS = "http://prometheus:9090"


class GrafanaLike(ThreadingHTTPServer):
    """The few endpoints that push uses, with what Grafana 11.6 documents for them."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix = prefix
        self.folders: list[dict[str, str]] = []
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.sources: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.role = "Editor"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.prefix}"


class _Handler(BaseHTTPRequestHandler):
    server: GrafanaLike

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        grafana = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"null")
        grafana.requests.append((method, self.path))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"message": "Invalid API key"})
        if grafana.role != "Editor":
            return self._answer(403, {"message": "You'll need additional permissions."})
        match method, self.path.removeprefix(grafana.prefix):
            case "GET", "/api/folders":
                return self._answer(200, grafana.folders)
            case "POST", "/api/folders":
                folder = {"uid": f"folder{len(grafana.folders)}", "title": body["title"]}
                grafana.folders.append(folder)
                return self._answer(200, folder)
            case "GET", "/api/datasources/name/Chatterbox":
                return self._answer(
                    *((200, grafana.sources[0]) if grafana.sources else (404, {"message": "not found"}))
                )
            case "POST", "/api/datasources":
                grafana.sources.append(body)
                return self._answer(200, {"datasource": body, "message": "Datasource added"})
            case "POST", "/api/dashboards/db":
                return self._save(body)
        return self._answer(404, {"message": "Not found"})

    def _save(self, body: dict[str, Any]) -> None:
        grafana, dashboard = self.server, body["dashboard"]
        if body["folderUid"] not in {folder["uid"] for folder in grafana.folders}:
            return self._answer(400, {"message": "folder not found"})
        if dashboard.get("id") is not None:
            return self._answer(404, {"message": "Dashboard not found"})  # Grafana takes an id for its own
        version = 1
        if dashboard["uid"] in grafana.dashboards:
            if not body.get("overwrite"):
                return self._answer(412, {"message": "A dashboard with the same uid already exists"})
            version += grafana.dashboards[dashboard["uid"]]["version"]
        grafana.dashboards[dashboard["uid"]] = {**body, "version": version}
        url = f"{grafana.prefix}/d/{dashboard['uid']}/board"
        return self._answer(200, {"uid": dashboard["uid"], "url": url, "status": "success", "version": version})

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(params=["", "/monitoring/grafana"], ids=["root", "sub-path"])
def grafana(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[GrafanaLike]:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    with serving(GrafanaLike(request.param)) as server:
        yield server


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a push that fails says; it must say it on stderr and exit with a status."""
    assert main(["push", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_makes_the_folder_and_the_dashboards(grafana: GrafanaLike, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "--url", grafana.url]) == 0
    assert [folder["title"] for folder in grafana.folders] == ["Chatterbox"]
    assert {own["folderUid"] for own in grafana.dashboards.values()} == {grafana.folders[0]["uid"]}
    for name, uid in UIDS.items():
        assert grafana.dashboards[uid]["dashboard"] == json.loads(render(name))
    assert capsys.readouterr().out == "".join(f"sent: {grafana.url}/d/{uid}/board\n" for uid in UIDS.values())
    assert grafana.sources == []


def test_makes_the_data_source_once(grafana: GrafanaLike, capsys: pytest.CaptureFixture[str]) -> None:
    for told in ("made", "there already"):
        assert main(["push", "--url", grafana.url, "--prometheus", PROMETHEUS]) == 0
        assert capsys.readouterr().out.startswith(f"data source: {told}\n")
    assert [(own["name"], own["url"]) for own in grafana.sources] == [("Chatterbox", PROMETHEUS)]
    assert "is there and reads" in failure(capsys, "--url", grafana.url, "--prometheus", "http://other:9090")


def test_again_replaces_it(grafana: GrafanaLike) -> None:
    for _ in range(2):
        assert main(["push", "--url", grafana.url + "/"]) == 0
    assert len(grafana.folders) == 1
    assert {own["version"] for own in grafana.dashboards.values()} == {2}
    assert grafana.dashboards.keys() == set(UIDS.values())


def test_uses_the_folder_that_is_there(grafana: GrafanaLike) -> None:
    grafana.folders = [{"uid": "a", "title": "Other"}, {"uid": "b", "title": "Voice"}]
    assert main(["push", "--url", grafana.url, "--folder", "Voice"]) == 0
    assert len(grafana.folders) == 2
    assert {own["folderUid"] for own in grafana.dashboards.values()} == {"b"}


def test_dry_run_sends_nothing(
    grafana: GrafanaLike, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAFANA_TOKEN")
    assert main(["push", "--url", grafana.url, "--prometheus", PROMETHEUS, "--dry-run"]) == 0
    assert grafana.requests == []
    shown = json.loads(capsys.readouterr().out)
    assert [own["dashboard"] for own in shown["dashboards"]] == [json.loads(render(name)) for name in BOARDS]
    assert all(own["overwrite"] for own in shown["dashboards"])
    assert shown["sources"][0]["url"] == PROMETHEUS


def test_a_wrong_token(
    grafana: GrafanaLike, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER", "wrong")
    said = failure(capsys, "--url", grafana.url, "--token-env", "OTHER")
    assert "does not know the token (401)" in said
    assert "wrong" not in said
    assert grafana.dashboards == {}


def test_a_viewers_token(grafana: GrafanaLike, capsys: pytest.CaptureFixture[str]) -> None:
    grafana.role = "Viewer"
    assert "Editor role (403)" in failure(capsys, "--url", grafana.url)


def test_a_url_that_is_not_grafanas_api(grafana: GrafanaLike, capsys: pytest.CaptureFixture[str]) -> None:
    assert "refused: Client Error 404" in failure(capsys, "--url", f"{grafana.url}/elsewhere")


class _WebPage(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Sign in</html>")


def test_a_sign_in_page_in_front(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _WebPage)) as server:
        said = failure(capsys, "--url", f"http://127.0.0.1:{server.server_port}")
        assert "not as Grafana's API does" in said


def test_no_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
    assert "GRAFANA_TOKEN holds no token" in failure(capsys, "--url", "http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["grafana.example.com", "ftp://x", "http://", "http://x:port"])
def test_not_a_url(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    assert "is not a URL" in failure(capsys, "--url", url)


def test_unreachable_from_the_command_line() -> None:
    push = [sys.executable, "-m", "dashboards", "push", "--url", f"http://127.0.0.1:{free_port()}"]
    run = subprocess.run(push, env={"GRAFANA_TOKEN": TOKEN}, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "cannot be reached" in run.stderr
    assert "Traceback" not in run.stderr
