"""Whatever is sent, nobody is answered 5xx, nothing hangs, and the service goes on as before."""

import concurrent.futures
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from loadtest.sounds import clip, hum
from tests.service import Service
from tests.sounds import contained

pytestmark = pytest.mark.service
BODY = {"input": "Hello there, you.", "voice": "default", "model": "tts-1", "response_format": "pcm", "speed": 1.0,
        "seed": 3, "temperature": 0.7, "cfg_weight": 0.5, "exaggeration": 0.5, "max_new_tokens": 4, "language": "en",
        "stream_format": "audio"}  # fmt: skip
FRAMES = (
    {"type": "start", "voice": "default", "seed": 3, "max_new_tokens": 4},
    {"type": "text", "text": "Hello there. "},
    {"type": "flush"},
    {"type": "end"},
    {"type": "cancel"},
)
ODD = (None, True, False, 0, -1, 1e308, -0.0, 2**63, "", " ", "\x00", "é" * 70, "../../etc/passwd", [], {}, [[]], "🎈")
SILENCE_S = 60.0


def mangled(draw: random.Random, data: bytes) -> bytes:
    """Some bytes of it changed, cut out, doubled or added."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(made) + 1), draw.randint(1, 8)
        how = draw.randrange(4)
        if how == 0:
            made[at : at + size] = draw.randbytes(size)
        elif how == 1:
            del made[at : at + draw.choice((size, len(made)))]
        elif how == 2:
            made[at:at] = made[at : at + 10 * size]
        else:
            made[at:at] = draw.randbytes(size)
    return bytes(made)


def changed(draw: random.Random, told: dict[str, object]) -> bytes:
    """The object with odd values and names, or its text mangled."""
    if draw.random() < 0.3:
        return mangled(draw, json.dumps(told).encode())
    made = dict(told)
    for _ in range(draw.randint(1, 3)):
        name = draw.choice((*made, "nobody", "__class__")) if made else "input"
        if draw.random() < 0.2:
            made.pop(name, None)
        else:
            made[name] = draw.choice(ODD)
    return json.dumps(made).encode()


def ask_for_speech(service: Service, draw: random.Random) -> None:
    kind = draw.choice(("application/json", "application/json", "text/plain", "multipart/form-data"))
    answer = httpx.post(
        f"{service.url}/v1/audio/speech", content=changed(draw, BODY), headers={"content-type": kind}, timeout=SILENCE_S
    )
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


CLIPS = [clip(kind=kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
CLIPS += [contained(hum()[:, None], 24_000, *how) for how in (("ipod", "aac"), ("webm", "libopus"), ("adts", "aac"))]


def add_a_voice(service: Service, draw: random.Random) -> None:
    sent = mangled(draw, draw.choice(CLIPS)[: draw.choice((200, 5000, None))])
    name = draw.choice(("Fuzz", *(str(odd) for odd in ODD)))
    files, data = {"file": ("clip", sent)}, {"name": name}
    answer = httpx.post(f"{service.url}/v1/voices", files=files, data=data, timeout=SILENCE_S)
    assert answer.status_code < 500, answer.text
    if answer.status_code == 201:
        httpx.delete(f"{service.url}/v1/voices/{answer.json()['id']}", timeout=SILENCE_S)


def talk(service: Service, draw: random.Random) -> None:
    """A conversation of changed frames; the service may close it, and answers what it does not take."""
    with connect(service.url.replace("http", "ws") + "/v1/audio/speech/ws", close_timeout=SILENCE_S) as line:
        try:
            for _ in range(draw.randint(1, 8)):
                frame = draw.choice(FRAMES)
                data = json.dumps(frame).encode() if draw.random() < 0.5 else changed(draw, frame)
                line.send(data if draw.random() < 0.1 else data.decode("utf-8", "replace"))
            while True:
                told = line.recv(timeout=0.05)
                assert isinstance(told, bytes) or json.loads(told)["type"] in (
                    "started", "clause", "done", "cancelled", "error"
                )  # fmt: skip
                if not isinstance(told, bytes) and json.loads(told)["type"] == "error":
                    assert json.loads(told)["error"]["type"] != "server_error", told
        except (TimeoutError, ConnectionClosed):
            pass


def bombard(service: Service, count: int, seed: int) -> None:
    """So many of each kind, eight at a time."""
    kinds: tuple[Callable[[Service, random.Random], None], ...] = (ask_for_speech, add_a_voice, talk)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(kind, service, random.Random(seed * count + index)) for index in range(count) for kind in kinds
        ]
        for one in done:
            one.result()


def goes_on_as_before(service: Service) -> None:
    service.wait_until_idle()
    answer = httpx.post(f"{service.url}/v1/audio/speech", json=BODY, timeout=SILENCE_S)
    assert answer.status_code == 200
    assert len(answer.content) > 0


def test_mangled_bodies_frames_and_clips_are_refused_or_served(service: Service) -> None:
    bombard(service, 25, seed=1)
    goes_on_as_before(service)


@pytest.mark.slow
def test_twenty_thousand_of_them_leave_memory_as_it_was(service: Service) -> None:
    def used() -> int:
        return sum(process.memory_info().rss for process in psutil.Process().children(recursive=True))

    bombard(service, 3350, seed=2)
    before = used()
    bombard(service, 3350, seed=3)
    goes_on_as_before(service)
    assert used() - before < 100 << 20  # of some 5,500


def test_the_openapi_document_is_true(service: Service, tmp_path: Path) -> None:
    """schemathesis finds nothing, but that texts and clips which a schema cannot describe are refused."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--url", service.url,
               "--max-examples", "8", "--phases", "examples,fuzzing,stateful", "--seed", "1",
               "--request-timeout", "60", "--exclude-checks", "positive_data_acceptance"]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    goes_on_as_before(service)
