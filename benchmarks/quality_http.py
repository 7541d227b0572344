"""A service that speaks, as a client hears it: audio, and when it came."""

import time
from contextlib import closing
from typing import Any

import numpy as np
import requests

from benchmarks.measure import Spread
from chatterbox_engine.errors import ModelUnavailable
from loadtest.playback import Playback

_SILENCE_S = 120.0
"""Seconds without a byte after which a service counts as gone."""


def hear(session: requests.Session, url: str, text: str, seed: int, max_new_tokens: int) -> tuple[Playback, bytes]:
    """One stream, read as it comes: when its audio came, and the audio (16 bits, 24 kHz). Raises ModelUnavailable."""
    body: dict[str, str | int] = {"input": text, "response_format": "pcm"}
    body |= {"seed": seed, "max_new_tokens": max_new_tokens}
    playback, parts = Playback(time.perf_counter()), []
    try:
        with closing(session.post(f"{url}/v1/audio/speech", json=body, timeout=_SILENCE_S, stream=True)) as response:
            _check(response)
            for data in response.iter_content(chunk_size=None):  # each piece as it arrives
                playback.received(len(data), time.perf_counter())
                parts.append(data)
    except requests.RequestException as error:
        raise ModelUnavailable(f"{url} broke off: {error}") from error
    return playback, b"".join(parts)


class Client:
    """Asks one service. Every method raises ModelUnavailable where it does not answer as it should."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._played: list[Playback] = []

    def model(self) -> dict[str, Any]:
        """The one that is served, as GET /v1/models tells it."""
        try:
            with self._session.get(f"{self._url}/v1/models", timeout=_SILENCE_S) as response:
                _check(response)
                served: dict[str, Any] = response.json()["data"][0]
        except (requests.RequestException, LookupError) as error:
            raise ModelUnavailable(f"There is no speech service at {self._url}: {error}") from error
        return served

    def speak(self, text: str, seed: int, max_new_tokens: int) -> np.ndarray:
        """One stream, read as it comes; (samples,) float32 at 24 kHz."""
        playback, samples = hear(self._session, self._url, text, seed, max_new_tokens)
        if playback.bytes:
            self._played.append(playback)
        return np.frombuffer(samples[: len(samples) // 2 * 2], "<i2").astype(np.float32) / 32768

    def times(self) -> dict[str, Spread]:
        """Of all streams that had audio: seconds to the first audio, and real-time factor."""
        if not self._played:
            return {}
        first = [playback.first_at - playback.begin for playback in self._played if playback.first_at is not None]
        factors = [playback.real_time_factor for playback in self._played]
        return {"first_audio_s": Spread.of(first), "rtf": Spread.of(factors)}

    def forget(self) -> None:
        """What was timed so far."""
        self._played.clear()


def _check(response: requests.Response) -> None:
    if response.status_code != 200:
        raise ModelUnavailable(f"The service answered {response.status_code}: {response.text[:300]}")
