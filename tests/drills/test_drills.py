"""The drills' own eyes: what listeners hear is told as it was. The drills themselves run by `python -m drills`."""

import time
from collections.abc import Iterator

import httpx
import pytest

from drills.__main__ import HARMS, drilled
from drills.belongings import Belongings
from drills.job import compared, done, text_of
from drills.listeners import Listeners
from tests.service import Service

pytestmark = pytest.mark.service


def test_what_listeners_hear_while_a_replica_dies_is_whole(service: Service) -> None:
    crowd, belongings = Listeners(service.url, 3), Belongings(service.url)
    with crowd.listening():
        time.sleep(1.0)
        hurt = time.monotonic()
        service.replica("S3Gen").kill()
        service.wait_until_well()
        time.sleep(1.0)
    told = crowd.outcomes()
    assert told["whole"] >= 3
    assert "wrong" not in told
    assert crowd.outcomes(hurt, hurt) == {"whole": 3}
    assert belongings.lost() == []
    for job in httpx.get(f"{service.url}/v1/audio/jobs", timeout=30).json()["data"]:
        httpx.delete(f"{service.url}/v1/audio/jobs/{job['id']}", timeout=30)
    for voice in httpx.get(f"{service.url}/v1/voices", timeout=30).json()["data"][1:]:
        httpx.delete(f"{service.url}/v1/voices/{voice['id']}", timeout=30)
    service.wait_until_idle()


class Liar(httpx.SyncByteStream):
    """An answer that ends as if it were whole, after half."""

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(960)


def test_a_part_that_is_called_whole_is_seen(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Listeners(service.url, 1)
    monkeypatch.setattr(httpx.Client, "send", lambda *_, **__: _liar())
    with crowd.listening():
        time.sleep(0.3)
    assert set(crowd.outcomes()) == {"wrong"}


def _liar() -> httpx.Response:
    return httpx.Response(200, stream=Liar(), request=httpx.Request("POST", "http://liar"))


@pytest.mark.parametrize("characters", [300, 5000])
def test_a_jobs_text_has_its_length_and_no_paragraph_twice(characters: int) -> None:
    text = text_of(characters)
    assert characters - 20 < len(text) <= characters
    assert len(set(text.split("\n\n"))) == len(text.split("\n\n"))


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMS)
def test_every_drill_goes_as_it_should(name: str) -> None:
    assert drilled(HARMS[name], 4)["as_it_should"]


def test_a_jobs_file_is_what_its_pieces_sound_like(service: Service) -> None:
    text = text_of(400)
    samples, job = done(service, text, 0)  # type: ignore[arg-type]
    told = compared(service, text, samples, job, 1)  # type: ignore[arg-type]
    assert told["pieces_compared"] == job["pieces"]
    assert told["greatest_difference"] <= 64
    httpx.delete(f"{service.url}/v1/audio/jobs/{job['id']}", timeout=30)
