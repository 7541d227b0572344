"""What a service keeps for people, and must not lose."""

import time

import httpx

from loadtest.sounds import clip
from loadtest.texts import LONG

_DONE_S = 300.0


def upload(url: str, name: str, pitch: float) -> httpx.Response:
    """Add a voice that hums, of 4 s."""
    given = {"file": ("hum.wav", clip(pitch=pitch))}
    return httpx.post(f"{url}/v1/voices", files=given, data={"name": name}, timeout=60)


class Belongings:
    """A voice, and a job that has just begun."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._voice = upload(url, "Kept", 150.0).raise_for_status().json()["id"]
        body = {"input": " ".join(3 * LONG), "voice": "Kept", "seed": 1, "response_format": "wav"}
        self._job = httpx.post(f"{url}/v1/audio/jobs", json=body, timeout=60).raise_for_status().json()

    def lost(self) -> list[str]:
        """What is not there any more; waits for the job's end."""
        web = httpx.Client(base_url=self._url, timeout=60)
        gone = [] if web.get(f"/v1/voices/{self._voice}").status_code == 200 else ["voice"]
        end = time.monotonic() + _DONE_S
        while time.monotonic() < end:
            job = web.get(f"/v1/audio/jobs/{self._job['id']}")
            if job.status_code != 200 or job.json()["status"] in ("failed", "cancelled"):
                return [*gone, "job"]
            if job.json()["status"] == "done":
                whole = job.json()["pieces_done"] == self._job["pieces"]
                return gone if whole else [*gone, "pieces of the job"]
            time.sleep(0.5)
        return [*gone, "job (not done in time)"]
