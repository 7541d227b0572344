"""Barge-in under load: utterances are cancelled at random moments beside listeners who must not notice.

    python -m loadtest.barge_in --host http://127.0.0.1:8000 --listeners 16 --cancels 100

Prints how long the server took to say that it is silent, how long until the places of both stages were free, and what
listeners heard meanwhile; the last line is JSON.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from loadtest.playback import Playback
from loadtest.talk import KEY, headers
from loadtest.texts import TEXTS

_SPEAKS_S = 2.0
"""An utterance is cancelled at most so long after its start."""
_FREE_S = 5.0
"""Places that are not free by then are lost."""
_LOOK_AGAIN_S = 0.005
_AGAIN_S = 1.0
"""After a refusal."""


@dataclass
class Seen:
    """What happened."""

    silent_s: list[float] = field(default_factory=list)
    free_s: list[float] = field(default_factory=list)
    lost: int = 0
    """Times that places were not free in time."""
    utterances: int = 0
    stalls: int = 0
    refused: int = 0
    in_flight: int = 0

    def told(self) -> dict[str, Any]:
        """Milliseconds are the median and the greatest."""
        times = {"silent_ms": self.silent_s, "free_ms": self.free_s}
        figures = {
            name: [round(1e3 * float(f(own))) for f in (np.median, np.max)] for name, own in times.items() if own
        }
        counted = ("lost", "utterances", "stalls", "refused")
        return {"cancels": len(self.silent_s), **figures, **{name: getattr(self, name) for name in counted}}


async def listen(web: httpx.AsyncClient, seen: Seen, speed: float) -> None:
    """One listener: asks, plays in real time, asks again."""
    while True:
        seen.in_flight += 1
        playback = Playback(time.monotonic())
        try:
            body = {"input": random.choice(TEXTS), "response_format": "pcm", "speed": speed}
            async with web.stream("POST", "/v1/audio/speech", json=body) as answer:
                if answer.status_code == 429:
                    seen.refused += 1
                else:
                    answer.raise_for_status()
                    async for data in answer.aiter_raw():
                        playback.received(len(data), time.monotonic())
                    seen.utterances += 1
                    seen.stalls += playback.stalls
        finally:
            seen.in_flight -= 1
        await asyncio.sleep(max(0.5, playback.ends_at - time.monotonic()))


async def barge_in(web: httpx.AsyncClient, socket: Any, seen: Seen) -> None:
    """One utterance, cancelled. Raises AssertionError where audio comes after that."""
    while not await started(socket):
        seen.refused += 1
        await asyncio.sleep(_AGAIN_S)
    await socket.send(json.dumps({"type": "text", "text": " ".join(random.sample(TEXTS, 3)) + " "}))
    until = time.monotonic() + random.uniform(0.0, _SPEAKS_S)
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.wait_for(socket.recv(), left)
        except TimeoutError:
            break
    begin = time.monotonic()
    await socket.send(json.dumps({"type": "cancel"}))
    while True:
        message = await socket.recv()
        if isinstance(message, str) and json.loads(message)["type"] == "cancelled":
            break
    seen.silent_s.append(time.monotonic() - begin)
    while time.monotonic() < begin + _FREE_S:
        with contextlib.suppress(TimeoutError):
            told = await asyncio.wait_for(socket.recv(), _LOOK_AGAIN_S)
            raise AssertionError(f"It was told to be silent, and said {told[:80]!r}.")
        live = (await web.get("/health")).json().get("live", {})
        if live and max(live["ingress"], live["s3gen"]["running"], live["t3"]["running"]) <= seen.in_flight:
            seen.free_s.append(time.monotonic() - begin)
            return
    seen.lost += 1


async def started(socket: Any) -> bool:
    """Begin an utterance; False where there is no place for it."""
    await socket.send(json.dumps({"type": "start"}))
    told = json.loads(await socket.recv())
    if told["type"] == "error" and told["error"]["code"] != "overloaded":
        raise RuntimeError(told["error"]["message"])
    return bool(told["type"] == "started")


async def run(host: str, listeners: int, cancels: int, speed: float = 1.0, key: str | None = None) -> Seen:
    """The whole drill; `speed` is what the listeners ask for: slow ones need less audio a second, each."""
    seen, shown = Seen(), headers(key)
    limits, url = httpx.Limits(max_connections=None), f"{host.replace('http', 'ws', 1)}/v1/audio/speech/ws"
    async with (
        httpx.AsyncClient(base_url=host, timeout=60, limits=limits, headers=shown) as web,
        connect(url, max_size=None, additional_headers=shown) as socket,
    ):
        tasks = []
        for _ in range(listeners):
            tasks.append(asyncio.create_task(listen(web, seen, speed)))
            await asyncio.sleep(0.5)  # so that they do not all want their chunks at one moment
        for _ in tqdm(range(cancels), disable=None):
            await barge_in(web, socket, seen)
            for task in tasks:
                if task.done():
                    task.result()  # a listener whose stream broke
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--host", default="http://127.0.0.1:8000")
    parser.add_argument("--listeners", type=int, default=16)
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--speed", type=float, default=1.0, help="0.5: twice as many listeners for the same work")
    parser.add_argument("--key", default=os.environ.get(KEY), help=f"where it asks for one (default: ${KEY})")
    given = parser.parse_args()
    try:
        seen = asyncio.run(run(given.host, given.listeners, given.cancels, given.speed, given.key))
    except (OSError, WebSocketException, httpx.HTTPError, RuntimeError) as error:
        parser.exit(1, f"error: {given.host}: {error or type(error).__name__}\n")
    print(json.dumps(seen.told()))


if __name__ == "__main__":
    main()
