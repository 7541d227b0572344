"""Long texts on a running service: to the end, with the sound they have without a disturbance."""

import io
import time
from typing import Any

import av
import httpx
import numpy as np
import pytest
import soundfile

from chatterbox_engine.checkpoint import find
from deployments.book import chapters
from tests.service import Service

pytestmark = pytest.mark.service
TEXT = "# One\n\nIt was a night.\n\n# Two\n\n" + "It rained on and on, and nobody was there to see it. " * 12
WAIT_S = 120.0


def jobs(service: Service, method: str = "GET", path: str = "", **options: Any) -> httpx.Response:
    return httpx.request(method, f"{service.url}/v1/audio/jobs{path}", timeout=60, **options)


def add(service: Service, **body: Any) -> dict[str, Any]:
    answer = jobs(service, "POST", json={"input": TEXT, "title": "Rain", "seed": 7, **body})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def until(service: Service, job: str, **wanted: Any) -> dict[str, Any]:
    """The job, once it has what is wanted: a status, or so many pieces done."""
    end = time.monotonic() + WAIT_S
    while True:
        answer = jobs(service, path=f"/{job}")
        if answer.status_code == 200:
            told = dict(answer.json())
            if told["status"] == wanted.get("status", told["status"]) and told["pieces_done"] >= wanted.get("done", 0):
                return told
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)


def test_a_killed_replica_changes_nothing(service: Service) -> None:
    undisturbed = add(service, response_format="flac")["id"]
    until(service, undisturbed, status="done")
    disturbed = add(service, response_format="flac")["id"]
    for done, deployment in ((1, "Jobs"), (2, "S3Gen")):
        until(service, disturbed, done=done)
        service.replica(deployment).kill()
    told = until(service, disturbed, status="done")
    service.wait_until_well()
    files = [jobs(service, path=f"/{job}/file") for job in (undisturbed, disturbed)]
    assert [file.headers["content-type"] for file in files] == ["audio/flac"] * 2
    a, b = (soundfile.read(io.BytesIO(file.content), dtype="int16")[0].astype(int) for file in files)
    assert len(a) == len(b) == round(told["seconds"] * 24_000)
    assert np.abs(a - b).max() <= 32  # up to rounding in other batches
    spec = find("dummy:tiny", "cpu").spec
    parts = chapters(TEXT, "Rain", spec.piece_characters, "en")
    assert told["pieces"] == told["pieces_done"] == sum(len(part.pieces) for part in parts) > 3
    assert [chapter["title"] for chapter in told["chapters"]] == ["One", "Two"]
    assert told["chapters"][1]["end"] == told["seconds"]
    part = jobs(service, path=f"/{disturbed}/file", headers={"range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, files[1].content[4:10])
    assert part.headers["content-range"] == f"bytes 4-9/{len(files[1].content)}"
    assert jobs(service, path=f"/{disturbed}/file", headers={"range": "bytes=99999999-"}).status_code == 416


def test_live_traffic_goes_on_beside_a_paused_and_a_running_job(service: Service) -> None:
    job = add(service, response_format="m4b")["id"]
    assert jobs(service, path=f"/{job}/file").json()["error"]["code"] == "wrong_state"
    until(service, job, done=1)
    assert jobs(service, "POST", f"/{job}/pause").json()["status"] == "paused"
    assert jobs(service, "POST", f"/{job}/pause").status_code == 409
    service.wait_until_idle()
    assert jobs(service, "POST", f"/{job}/resume").json()["status"] in ("queued", "running")
    spoken = httpx.post(f"{service.url}/v1/audio/speech", json={"input": "Hello there."}, timeout=60)
    assert spoken.status_code == 200
    told = until(service, job, status="done")
    assert told["id"] in [listed["id"] for listed in jobs(service).json()["data"]]
    file = jobs(service, path=f"/{job}/file")
    with av.open(io.BytesIO(file.content)) as book:
        assert [mark["metadata"]["title"] for mark in book.chapters()] == ["One", "Two"]
        assert book.metadata["title"] == "Rain"
    assert jobs(service, "DELETE", f"/{job}").json()["deleted"]
    assert jobs(service, path=f"/{job}").json()["error"]["code"] == "job_not_found"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": " "}, 400, "input"),
        ({"input": "x" * 1_000_001}, 400, "input"),
        ({"response_format": "ogg"}, 400, "response_format"),
        ({"title": "a\nb"}, 400, "title"),
        ({"voice": "nobody"}, 404, "voice"),
        ({"speed": 2.0}, 400, "speed"),
    ],
)
def test_what_cannot_be_a_job_is_refused(service: Service, body: dict[str, Any], status: int, param: str) -> None:
    answer = jobs(service, "POST", json={"input": "Hello there.", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_cancelled_job_frees_its_place_and_stays_listed(service: Service) -> None:
    job = add(service)["id"]
    assert jobs(service, "POST", f"/{job}/cancel").json()["status"] == "cancelled"
    service.wait_until_idle()
    assert jobs(service, "POST", f"/{job}/resume").status_code == 409
    assert until(service, job)["status"] == "cancelled"
    assert jobs(service, "POST", f"/{job}/explode").status_code == 400
