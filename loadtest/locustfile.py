"""Listeners: each asks for speech, plays it in real time, and asks again when it has been played.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 -u 20 -r 2 -t 2m --headless

So a user is one live playback. Entries of type `listener` in Locust's statistics, one each for an utterance:

    first audio              from sending the request to the first byte of sound
    whole utterance          to the last byte; a broken stream or a refusal other than 429 is a failure of this entry
    stall                    how long playback stood still for want of audio; 0 where it never did
    real-time factor x 1000  milliseconds until the last byte, for each second of audio

and where they happen:

    each stall               how long one stall lasted; its count is the number of stalls
    hung up                  when a user that meant to (--hang-up-share) closed the connection midway
    429                      a refusal for want of places; the user comes back after the time the service names
"""

import random
import time
from contextlib import closing
from typing import Any

import requests
from locust import HttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.stats import CSV_STATS_INTERVAL_SEC

from loadtest.playback import Playback
from loadtest.texts import TEXTS

_SILENCE_S = 60.0
"""A service that sends nothing for so long has lost the stream."""
_PAUSE_S = 1.0
"""Before the next try after a failure that names no time."""


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--voice", default="default", help="voice that listeners ask for")
    parser.add_argument("--key", help="API key, where the service asks for one", is_secret=True)
    parser.add_argument("--hang-up-share", type=float, default=0.0, help="share of requests that are left midway")
    parser.add_argument("--hang-up-after", type=float, default=1.0, help="seconds of audio after which they are left")


@events.quitting.add_listener
def _await_csv(**_: Any) -> None:
    """Locust writes its CSV once a second and not at the end; without this wait the last second is not in it."""
    time.sleep(1.5 * CSV_STATS_INTERVAL_SEC)


class Listener(HttpUser):
    """Asks, listens, asks again.

    HttpUser and not FastHttpUser, whose streams take a body that is cut short for a whole one.
    """

    @task
    def listen(self) -> None:
        """One utterance, and the time until the next."""
        options = self.environment.parsed_options
        body = {"input": random.choice(TEXTS), "voice": options.voice, "response_format": "pcm"}
        headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
        playback = Playback(time.perf_counter())
        with self.client.post(
            "/v1/audio/speech",
            json=body,
            headers=headers,
            name="whole utterance",
            timeout=_SILENCE_S,
            stream=True,
            catch_response=True,
        ) as response:
            meta: dict[str, Any] = response.request_meta
            meta["request_type"] = "listener"
            pause = _retry_after(response)
            if response.status_code == 429:
                meta["name"] = "429"
                response.success()
                response.close()
            elif response.status_code != 200:
                response.failure(response.error or f"{response.status_code}: {response.text[:200]}")
            else:
                try:
                    patience = options.hang_up_after if random.random() < options.hang_up_share else float("inf")
                    whole = self._play(response, playback, patience)
                except (requests.RequestException, BrokenAudio) as error:
                    response.failure(error)
                else:
                    meta["name"] = "whole utterance" if whole else "hung up"
                    response.success()
                    pause = playback.ends_at - time.perf_counter() if whole else 0.0
                meta["response_time"] = 1000 * (time.perf_counter() - playback.begin)
                meta["response_length"] = playback.bytes
        time.sleep(max(0.0, pause))

    def _play(self, response: requests.Response, playback: Playback, patience: float) -> bool:
        """Receive the audio as a player does; false where the listener hung up after `patience` seconds of it."""
        with closing(response):  # and its connection, where the body has not been read to its end
            for data in response.iter_content(chunk_size=None):  # each piece as it arrives
                first, stalled = playback.bytes == 0, playback.stall_seconds
                playback.received(len(data), time.perf_counter())
                if first:
                    self._fire("first audio", playback.last_at - playback.begin)
                if playback.stall_seconds > stalled:
                    self._fire("each stall", playback.stall_seconds - stalled)
                if playback.seconds >= patience:
                    return False
        if playback.bytes == 0:
            raise BrokenAudio("The stream ended without audio.")
        if playback.bytes % 2:
            raise BrokenAudio("The stream ended within a sample.")
        self._fire("stall", playback.stall_seconds)
        self._fire("real-time factor x 1000", playback.real_time_factor)
        return True

    def _fire(self, name: str, seconds: float) -> None:
        """An entry in Locust's statistics, which count in milliseconds."""
        self.environment.events.request.fire(
            request_type="listener", name=name, response_time=1000 * seconds, response_length=0, exception=None,
            context={},
        )  # fmt: skip


def _retry_after(response: requests.Response) -> float:
    """Seconds until the next try, as the service names them; a proxy in front of it may name a date instead."""
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdigit() else _PAUSE_S


class BrokenAudio(Exception):
    """A body that ended without error and yet is not a whole utterance."""
