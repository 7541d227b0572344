"""One utterance over WebSocket, as a voice agent has it spoken."""

import json
import time

from websockets.sync.client import connect

from loadtest.playback import Playback

KEY = "CHATTERBOX_KEY"
"""Where the environment has the key, as for `python -m cli`."""
_SILENCE_S = 60.0


class Refused(Exception):
    """The service's own words, and whether it is that all places are taken."""

    def __init__(self, message: str, full: bool) -> None:
        super().__init__(message)
        self.full = full


def headers(key: str | None) -> dict[str, str]:
    """That show the key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def talk(host: str, text: str, playback: Playback, key: str | None = None) -> None:
    """Send a text word by word, and receive its audio. Raises Refused, TimeoutError, websockets' own errors."""
    url = f"{host.rstrip('/').replace('http', 'ws', 1)}/v1/audio/speech/ws"
    with connect(url, additional_headers=headers(key), max_size=None) as socket:
        socket.send(json.dumps({"type": "start"}))
        for word in text.split():
            socket.send(json.dumps({"type": "text", "text": f"{word} "}))
        socket.send(json.dumps({"type": "end"}))
        while True:
            message = socket.recv(timeout=_SILENCE_S)
            if isinstance(message, bytes):
                playback.received(len(message), time.perf_counter())
                continue
            told = json.loads(message)
            if told["type"] == "error":
                raise Refused(told["error"]["message"], told["error"]["code"] == "overloaded")
            if told["type"] == "done":
                return
