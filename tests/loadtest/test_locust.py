"""The Locust user in real runs: on the real service, and on servers that misbehave in known ways."""

import csv
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtest.local_service import free_port
from loadtest.playback import Playback
from tests.service import Service

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """What one run of Locust left behind."""

    status: int
    output: str
    entries: dict[str, dict[str, str]]
    """Rows of the statistics by name, those of the listeners alone."""
    failures: dict[str, int]
    """Counts by message."""

    def count(self, name: str) -> int:
        return int(self.entries[name]["Request Count"]) if name in self.entries else 0

    def mean_ms(self, name: str) -> float:
        return float(self.entries[name]["Average Response Time"])


def locust(folder: Path, host: str, seconds: int, *options: str) -> Run:
    """A headless run from the repository's root, as the locustfile's own text says."""
    command = [sys.executable, "-m", "locust", "--headless", "-f", "loadtest/locustfile.py", "--host", host,
               "-t", f"{seconds}s", "--csv", str(folder / "run"), *options]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60)
    assert (folder / "run_stats.csv").exists(), done.stderr

    def rows(kind: str) -> list[dict[str, str]]:
        with (folder / f"run_{kind}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return Run(
        done.returncode,
        done.stdout + done.stderr,
        {row["Name"]: row for row in rows("stats") if row["Type"] == "listener"},
        {row["Error"]: int(row["Occurrences"]) for row in rows("failures")},
    )


@pytest.mark.service
def test_the_real_service(service: Service, tmp_path: Path) -> None:
    run = locust(tmp_path, service.url, 8, "-u", "2", "-r", "2")
    assert run.status == 0, run.output
    assert run.failures == {}
    heard = run.count("first audio")
    assert heard >= 2
    assert heard - 2 <= run.count("whole utterance") == run.count("stall") <= heard  # two may be cut off by the end
    assert run.mean_ms("first audio") > 5
    assert run.mean_ms("first audio") <= float(run.entries["whole utterance"]["Max Response Time"])
    assert run.mean_ms("real-time factor x 1000") > 0
    assert float(run.entries["whole utterance"]["Average Content Size"]) > 48_000


@pytest.mark.service
def test_hanging_up_frees_the_service(service: Service, tmp_path: Path) -> None:
    run = locust(tmp_path, service.url, 4, "-u", "2", "-r", "2", "--hang-up-share", "1", "--hang-up-after", "0.5")
    assert run.status == 0, run.output
    assert run.count("hung up") >= 2
    assert run.count("whole utterance") == 0  # no text is shorter than half a second
    service.wait_until_idle()


class _Server(ThreadingHTTPServer):
    """Answers the requests in turn, each by one of its handler's methods."""

    daemon_threads = True

    def __init__(self, *turns: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turns = itertools.cycle(turns)
        self.cut_off = 0
        """Streams that the client left."""
        self.keys: list[str | None] = []
        self.sent: list[Playback] = []
        """What a player beside the server would have heard, in the order of the requests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["authorization"])
        getattr(self, f"_{next(self.server.turns)}")()

    def _start(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _audio(self, *pieces: bytes | float, end: bytes = b"0\r\n\r\n") -> None:
        """Pieces of body, and seconds of silence between them."""
        playback = Playback(time.monotonic())
        self.server.sent.append(playback)
        self._start(transfer_encoding="chunked")
        for piece in pieces:
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                playback.received(len(piece), time.monotonic())
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(end)

    def _whole(self) -> None:
        self._audio(0.1, bytes(4_800), bytes(4_800))

    def _long(self) -> None:
        self._audio(bytes(4_800), 2.0, bytes(4_800))

    def _stalls(self) -> None:
        self._audio(bytes(4_800), 0.4, bytes(4_800), 0.05, bytes(4_800), 0.4, bytes(4_800))  # 0.1 s each: 0.3, 0.25

    def _cut(self) -> None:
        self._audio(bytes(4_800), end=b"")
        self.close_connection = True

    def _odd(self) -> None:
        self._audio(bytes(4_801))

    def _empty(self) -> None:
        self._audio()

    def _busy(self) -> None:
        self._start(429, retry_after="1", content_length="0")

    def _broken(self) -> None:
        self._start(503, retry_after="0", content_length="4")
        self.wfile.write(b"gone")

    def _endless(self) -> None:
        try:
            self._audio(*itertools.chain.from_iterable((bytes(4_800), 0.02) for _ in range(500)))
        except OSError:
            self.server.cut_off += 1


@contextmanager
def serving(*turns: str) -> Iterator[tuple[_Server, str]]:
    server = _Server(*turns)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_goes_wrong_is_told_apart(tmp_path: Path) -> None:
    with serving("whole", "busy", "cut", "odd", "empty", "broken") as (_, host):
        run = locust(tmp_path, host, 10, "-u", "1")
    assert run.status == 1
    messages = {
        kind: sum(count for message, count in run.failures.items() if text in message)
        for kind, text in {
            "cut": "ended prematurely",
            "odd": "within a sample",
            "empty": "without audio",
            "broken": "503: gone",
        }.items()
    }
    whole = run.count("whole utterance") - sum(run.failures.values())
    turns = [*messages.values(), run.count("429"), whole]
    assert 1 <= min(turns) >= max(turns) - 1, turns
    assert sum(messages.values()) == sum(run.failures.values()) == int(run.entries["whole utterance"]["Failure Count"])
    assert run.entries["429"]["Failure Count"] == "0"
    assert run.count("stall") == whole


def test_stalls_are_counted_and_measured(tmp_path: Path) -> None:
    """As a player beside the server counts and measures them: a busy machine is late there, too."""
    with serving("stalls") as (server, host):
        run = locust(tmp_path, host, 3, "-u", "1")
    assert run.status == 0, run.output
    utterances = run.count("stall")
    assert utterances >= 1
    there = server.sent[:utterances]
    assert all(playback.stalls >= 2 and playback.stall_seconds >= 0.55 for playback in there)
    assert run.count("each stall") == pytest.approx(sum(playback.stalls for playback in there), abs=2)
    stalled_ms = 1e3 * statistics.mean(playback.stall_seconds for playback in there)
    assert run.mean_ms("stall") == pytest.approx(stalled_ms, abs=120)
    assert run.mean_ms("each stall") == pytest.approx(stalled_ms * utterances / run.count("each stall"), abs=120)
    # at least 0.85 s for 0.4 s of audio
    factor = statistics.mean(playback.real_time_factor for playback in there)
    assert run.mean_ms("real-time factor x 1000") == pytest.approx(1e3 * factor, abs=250)


def test_playback_is_in_real_time(tmp_path: Path) -> None:
    with serving("whole") as (server, host):
        run = locust(tmp_path, host, 3, "-u", "1")
    utterances = run.count("whole utterance")
    there = server.sent[:utterances]
    # 0.1 s to the first audio and 0.2 s of audio, before the listener asks again
    assert 1 <= utterances <= 10
    assert all(after.begin - before.begin > 0.28 for before, after in itertools.pairwise(there))
    firsts_ms = [1e3 * (playback.first_at - playback.begin) for playback in there if playback.first_at is not None]
    assert run.mean_ms("first audio") == pytest.approx(statistics.mean(firsts_ms), abs=300)
    assert run.mean_ms("first audio") >= 100
    stalled_ms = 1e3 * statistics.mean(playback.stall_seconds for playback in there)
    assert run.mean_ms("stall") == pytest.approx(stalled_ms, abs=150)


def test_all_who_arrive_are_heard_to_their_end(tmp_path: Path) -> None:
    """Also those who still listen when nobody comes any more: those would be the slowest."""
    with serving("long") as (server, host):
        events = tmp_path / "events"
        run = locust(tmp_path, host, 3, "-u", "1", "--arrivals", "4", "--events", str(events), "--stop-timeout", "30")
        told = [json.loads(line) for line in events.read_text().splitlines()]
    assert run.status == 0, run.output
    assert {one["outcome"] for one in told} == {"whole"}
    assert len(told) == len(server.sent) >= 2
    assert max(one["users"] for one in told) > 1


def test_a_key_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATTERBOX_KEY", "cbx-secret")
    with serving("whole") as (server, host):
        run = locust(tmp_path, host, 3, "-u", "1")
    assert set(server.keys) == {"Bearer cbx-secret"}
    assert "cbx-secret" not in run.output


def test_hanging_up_closes_the_connection(tmp_path: Path) -> None:
    with serving("endless") as (server, host):
        run = locust(tmp_path, host, 2, "-u", "1", "--hang-up-share", "1", "--hang-up-after", "0.5")
        assert run.status == 0, run.output
        assert run.count("hung up") >= 2
        assert server.cut_off >= run.count("hung up") - 1
    assert "whole utterance" not in run.entries


def test_nobody_there(tmp_path: Path) -> None:
    run = locust(tmp_path, f"http://127.0.0.1:{free_port()}", 2, "-u", "1")
    assert run.status == 1
    assert 1 <= sum(run.failures.values()) <= 3  # it pauses between the tries
    assert all("refused" in message for message in run.failures)
