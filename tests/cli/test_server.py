"""The commands that ask a running service."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import soundfile

from cli.__main__ import main
from loadtest.local_service import free_port
from loadtest.sounds import clip
from tests.service import Service

pytestmark = pytest.mark.service


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main([*arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_it_speaks_in_the_format_of_the_file(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = []
    for form in ("wav", "flac", "mp3"):
        path = tmp_path / f"hello.{form}"
        told(capsys, "say", "Hello there.", "-o", str(path), "--seed", "3", "--server", service.url)
        samples, rate = soundfile.read(path)
        assert rate == 24_000
        lengths.append(len(samples))
    assert lengths[0] == lengths[1]
    assert abs(lengths[2] - lengths[0]) < 3 * 1152
    assert {path.name for path in tmp_path.iterdir()} == {"hello.wav", "hello.flac", "hello.mp3"}


def test_voices_are_added_listed_and_removed(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATTERBOX_URL", service.url)
    path = tmp_path / "A hum.wav"
    path.write_bytes(clip(pitch=170))
    added = told(capsys, "voices", "add", str(path))
    assert added.split("\t")[1:] == ["A hum", "everybody's\n"]
    assert added in told(capsys, "voices", "list")
    told(capsys, "say", "Hello.", "--voice", "A hum", "-o", str(tmp_path / "out.wav"))
    told(capsys, "voices", "rm", "A hum")
    assert added not in told(capsys, "voices", "list")
    assert "There is no voice" in told(capsys, "voices", "rm", "A hum", status=1)
    assert "nowhere.wav" in told(capsys, "voices", "add", str(tmp_path / "nowhere.wav"), status=1)


def test_a_job_is_begun_watched_and_fetched(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATTERBOX_URL", service.url)
    text, path = tmp_path / "Rain.md", tmp_path / "rain.flac"
    text.write_text("# One\n\nIt was a night.\n\n# Two\n\nIt rained.")
    job = told(capsys, "jobs", "add", str(text), "--seed", "3", "-o", str(path)).strip()
    samples, _ = soundfile.read(path)
    shown = told(capsys, "jobs", "show", job).splitlines()
    assert shown[0].split("\t")[:3] == [job, "Rain", "done"]
    assert f"2 of 2 pieces, {len(samples) / 24_000:.1f} s" in shown[0]
    assert [line.split("\t")[2] for line in shown[1:]] == ["One", "Two"]
    assert job in told(capsys, "jobs", "list")
    assert "only jobs that are queued" in told(capsys, "jobs", "pause", job, status=1)
    told(capsys, "jobs", "rm", job)
    assert "There is no job" in told(capsys, "jobs", "fetch", job, "-o", str(path), status=1)
    assert "ends with none of m4b" in told(capsys, "jobs", "add", str(text), "-o", "rain.txt", status=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("say", "", "-o", "out.wav"), "The input is empty"),
        (("say", "Hello.", "-o", "out.document"), "out.document ends with none of .wav"),
        (("say", "Hello.", "-o", "out.wav", "--voice", "nobody"), "There is no voice"),
        (("say", "Hello.", "-o", "no/such/folder/out.wav"), "cannot be written"),
    ],
)
def test_what_is_refused_is_one_line_and_leaves_no_file(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in told(capsys, *arguments, "--server", service.url, status=1)
    assert not list(tmp_path.iterdir())


def test_a_service_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = told(capsys, "say", "Hello.", "-o", str(tmp_path / "out.wav"), "--server", url, status=1)
    assert f"{url} does not answer" in said
    assert "Name the service" in told(capsys, "voices", "list", status=1)


def test_something_else_that_answers_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Greeting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Hello</html>")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert "not as this service does" in told(capsys, "voices", "list", "--server", url, status=1)


@pytest.mark.parametrize(
    "arguments", [("keys", "--file", ".", "list"), ("voices", "add", ".", "--server", "http://[::1]:9")]
)
def test_a_folder_in_a_files_place_is_one_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "irectory" in told(capsys, *arguments, status=1)
