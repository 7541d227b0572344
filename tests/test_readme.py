"""Every command of the README, run as it stands there."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import soundfile

from drills.listeners import Heard, listen

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)
SERVE, TESTS, CURL, SAY = COMMANDS


@pytest.fixture(scope="module")
def served() -> Iterator[subprocess.Popen[bytes]]:
    """The service as a new user starts it, until it says that it is ready."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the path")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("port 8000 is taken")
    process = subprocess.Popen(SERVE.split(), cwd=ROOT, start_new_session=True)
    try:
        end = time.monotonic() + 300
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def ready() -> bool:
    return health() == 200


def health() -> int:
    try:
        return httpx.get("http://localhost:8000/health", timeout=5).status_code
    except httpx.HTTPError:
        return 0


def test_the_readme_has_these_commands_and_no_others() -> None:
    assert SERVE == "uv run serve run serve_config.yaml"
    assert TESTS == "uv run pytest"  # this very run
    assert CURL.startswith("curl -N localhost:8000/v1/audio/speech")
    assert SAY.startswith("uv run python -m cli say")
    assert len(PROGRAMS) == 1


@pytest.mark.service
def test_the_service_starts_and_speaks(served: subprocess.Popen[bytes]) -> None:
    subprocess.run(CURL, shell=True, cwd=ROOT, check=True, timeout=120)
    file = ROOT / "hello.mp3"
    samples, rate = soundfile.read(io.BytesIO(file.read_bytes()))
    file.unlink()
    assert rate == 24_000
    assert 1.5 < len(samples) / rate < 4


@pytest.mark.service
def test_a_stream_ends_before_the_service_does(served: subprocess.Popen[bytes]) -> None:
    """SIGTERM, by way of `uv run`: the live stream is whole, nobody new is let in, and then all is gone."""
    heard: list[Heard] = []
    text = "It is a long story, and you shall hear it all. " * 3
    listener = threading.Thread(target=lambda: heard.append(listen("http://localhost:8000", text, None)))
    listener.start()
    time.sleep(2)
    served.send_signal(signal.SIGTERM)
    end = time.monotonic() + 30
    while health() == 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert not ready()
    assert listen("http://localhost:8000", "Hello.", None).outcome in ("refused", "unreachable")
    listener.join()
    assert heard[0].outcome == "whole"
    assert heard[0].first is not None
    served.wait(60)
    assert health() == 0


def test_say_writes_a_file() -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the path")
    subprocess.run(SAY, shell=True, cwd=ROOT, check=True, timeout=120)
    wav = ROOT / "out.wav"
    info = soundfile.info(wav)
    wav.unlink()
    assert info.samplerate == 24_000
    assert info.duration > 0.5


def test_the_python_lines_run() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAMS[0]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, " in done.stdout
