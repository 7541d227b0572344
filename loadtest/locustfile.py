"""Listeners: each asks for speech, plays it in real time, and asks again when it has been played.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 -u 20 -r 2 -t 2m --headless

So a user is one live playback. Some may be told to behave otherwise, by their shares of the requests: hang up midway,
take the audio at half the speed at which it plays, speak over WebSocket, or bring a voice of their own and take it away
again. `loadtest/shapes.py` beside it has loads that change; `python -m loadtest` runs both and writes a report.

Entries of type `listener` in Locust's statistics, one each for an utterance:

    first audio              from sending the request to the first byte of sound
    whole utterance          to the last byte; a broken stream or a refusal other than 429 is a failure of this entry
    stall                    how long playback stood still for want of audio; 0 where it never did
    real-time factor x 1000  milliseconds until the last byte, for each second of audio

and where they happen:

    each stall               how long one stall lasted; its count is the number of stalls
    hung up                  when a user that meant to closed the connection midway
    429                      a refusal for want of places; the user comes back after the time the service names
    slow reader, websocket   utterances of those; `slow reader` has none of the figures above
    new voice                adding a voice and deleting it
"""

import json
import random
import time
from contextlib import closing
from typing import Any, TextIO

import requests
from gevent.pool import Group
from locust import HttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.stats import CSV_STATS_INTERVAL_SEC

from loadtest.playback import PCM_BYTES_PER_SECOND, Playback
from loadtest.sounds import clip
from loadtest.talk import KEY, Refused, headers, talk
from loadtest.texts import BY_LENGTH

_SILENCE_S = 60.0
"""A service that sends nothing for so long has lost the stream."""
_PAUSE_S = 1.0
"""Before the next try after a failure that names no time."""
_SHARES = ("hang-up", "slow", "websocket", "voice")


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--voice", default="default", help="voice that listeners ask for")
    parser.add_argument("--key", help="API key, where the service asks for one", env_var=KEY, is_secret=True)
    parser.add_argument("--texts", default="mixed", choices=list(BY_LENGTH), help="how long what they ask for is")
    for share in _SHARES:
        parser.add_argument(f"--{share}-share", type=float, default=0.0, help=f"share of requests: {share}")
    parser.add_argument("--hang-up-after", type=float, default=1.0, help="seconds of audio after which they are left")
    parser.add_argument("--arrivals", type=float, default=0.0, metavar="A_SECOND", help="open load: each user lets so "
                        "many listeners in a second (Poisson), however many there are")  # fmt: skip
    parser.add_argument("--events", help="file of one JSON line an utterance, for the report")


class _Events:
    """Where each utterance leaves a line."""

    file: TextIO | None = None

    @classmethod
    def tell(
        cls, environment: Environment, users: int, kind: str, outcome: str, playback: Playback, **more: Any
    ) -> None:
        """`users`: so many there were when it was asked for."""
        path = environment.parsed_options.events if environment.parsed_options else None
        if path is None:
            return
        cls.file = cls.file or open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (it is kept)
        told = {"at": time.time(), "kind": kind, "outcome": outcome, "users": users, "audio_s": playback.seconds}
        first = None if playback.first_at is None else playback.first_at - playback.begin
        times = {"first_s": first, "took_s": playback.last_at - playback.begin}
        stalls = {"stalls": playback.stalls, "stalled_s": playback.stall_seconds}
        cls.file.write(json.dumps({**told, **times, **stalls, **more}) + "\n")


@events.quitting.add_listener
def _await_csv(**_: Any) -> None:
    """Locust writes its CSV once a second and not at the end; without this wait the last second is not in it."""
    time.sleep(1.5 * CSV_STATS_INTERVAL_SEC)


class Listener(HttpUser):
    """Asks, listens, asks again.

    HttpUser and not FastHttpUser, whose streams take a body that is cut short for a whole one.
    """

    listening = 0
    """Utterances that are asked for or played, of all users."""

    def on_start(self) -> None:
        """Not before: gevent takes the time from what is made as files are imported, and ends the run too early."""
        self.arrived = Group()

    @task
    def come(self) -> None:
        """One utterance and the time until the next; or, with --arrivals, one more listener after another."""
        rate = self.environment.parsed_options.arrivals
        if not rate:
            self._once()
            return
        self.arrived.spawn(self._once)
        time.sleep(random.expovariate(rate))

    def on_stop(self) -> None:
        """Nobody else comes; those who have are served to their end, or to Locust's --stop-timeout."""
        self.arrived.join()

    def _once(self) -> None:
        Listener.listening += 1
        try:
            self._one()
        finally:
            Listener.listening -= 1

    def _one(self) -> None:
        options = self.environment.parsed_options
        draw = random.random()
        for share in _SHARES:
            draw -= getattr(options, f"{share.replace('-', '_')}_share")
            if draw < 0:
                return getattr(self, f"_{share.replace('-', '_')}")()
        return self._listen()

    def _hang_up(self) -> None:
        self._listen(patience=self.environment.parsed_options.hang_up_after)

    def _slow(self) -> None:
        self._listen(slow=True)

    def _websocket(self) -> None:
        """An utterance over WebSocket, its text word by word."""
        options = self.environment.parsed_options
        playback, users, outcome, error = Playback(time.perf_counter()), self._users(), "whole", None
        try:
            assert self.host is not None
            talk(self.host, self._text(), playback, options.key)
        except Exception as broke:
            full = isinstance(broke, Refused) and broke.full and not playback.bytes  # amid an utterance it is a failure
            outcome, error = ("429", None) if full else ("failed", broke)
        self._fire("429" if outcome == "429" else "websocket", time.perf_counter() - playback.begin, error)
        _Events.tell(self.environment, users, "websocket", outcome, playback)
        time.sleep(max(0.0, playback.ends_at - time.perf_counter()) if outcome == "whole" else _PAUSE_S)

    def _voice(self) -> None:
        """A new voice, and away with it."""
        begin, users, shown, entry = time.perf_counter(), self._users(), self._headers(), "new voice"
        files = {"file": ("hum.wav", clip(pitch=random.uniform(100, 300)))}
        name = {"name": f"Load {random.getrandbits(48):x}"}
        with self.client.post(
            "/v1/voices", files=files, data=name, headers=shown, name=entry, catch_response=True
        ) as added:
            if done := added.status_code == 201:
                path = f"/v1/voices/{added.json()['id']}"
                done = self.client.delete(path, headers=shown, name=entry).status_code == 200
        outcome = "whole" if done else "failed"
        _Events.tell(self.environment, users, "voice", outcome, Playback(begin), took_s=time.perf_counter() - begin)
        time.sleep(_PAUSE_S)

    def _users(self) -> int:
        """So many listen."""
        if self.environment.parsed_options.arrivals:
            return self.listening
        return self.environment.runner.user_count if self.environment.runner else 0

    def _headers(self) -> dict[str, str]:
        return headers(self.environment.parsed_options.key)

    def _text(self) -> str:
        return random.choice(BY_LENGTH[self.environment.parsed_options.texts])

    def _listen(self, patience: float = float("inf"), *, slow: bool = False) -> None:
        """One utterance. `patience`: seconds of audio after which the listener hangs up."""
        body = {"input": self._text(), "voice": self.environment.parsed_options.voice, "response_format": "pcm"}
        kind = "slow reader" if slow else "listener"
        playback, users, outcome = Playback(time.perf_counter()), self._users(), "whole"
        with self.client.post(
            "/v1/audio/speech",
            json=body,
            headers=self._headers(),
            name="whole utterance",
            timeout=_SILENCE_S,
            stream=True,
            catch_response=True,
        ) as response:
            meta: dict[str, Any] = response.request_meta
            meta["request_type"] = "listener"
            pause = _retry_after(response)
            if response.status_code == 429:
                meta["name"] = outcome = "429"
                response.success()
                response.close()
            elif response.status_code != 200:
                outcome = "failed"
                response.failure(response.error or f"{response.status_code}: {response.text[:200]}")
            else:
                try:
                    whole = self._play(response, playback, patience, slow)
                except (requests.RequestException, BrokenAudio) as error:
                    outcome = "failed"
                    response.failure(error)
                else:
                    outcome = "whole" if whole else "hung up"
                    meta["name"] = kind if slow else "whole utterance" if whole else "hung up"
                    response.success()
                    pause = playback.ends_at - time.perf_counter() if whole else 0.0
                meta["response_time"] = 1000 * (time.perf_counter() - playback.begin)
                meta["response_length"] = playback.bytes
        _Events.tell(self.environment, users, kind, outcome, playback)
        time.sleep(max(0.0, pause))

    def _play(self, response: requests.Response, playback: Playback, patience: float, slow: bool) -> bool:
        """Receive the audio as a player does; false where the listener hung up after `patience` seconds of it."""
        with closing(response):  # and its connection, where the body has not been read to its end
            for data in response.iter_content(chunk_size=None):  # each piece as it arrives
                first, stalled = playback.bytes == 0, playback.stall_seconds
                playback.received(len(data), time.perf_counter())
                if slow:
                    time.sleep(2 * len(data) / PCM_BYTES_PER_SECOND)
                    continue
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
        if not slow:
            self._fire("stall", playback.stall_seconds)
            self._fire("real-time factor x 1000", playback.real_time_factor)
        return True

    def _fire(self, name: str, seconds: float, error: Exception | None = None) -> None:
        """An entry in Locust's statistics, which count in milliseconds."""
        self.environment.events.request.fire(
            request_type="listener", name=name, response_time=1000 * seconds, response_length=0, exception=error,
            context={},
        )  # fmt: skip


def _retry_after(response: requests.Response) -> float:
    """Seconds until the next try, as the service names them; a proxy in front of it may name a date instead."""
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdigit() else _PAUSE_S


class BrokenAudio(Exception):
    """A body that ended without error and yet is not a whole utterance."""
