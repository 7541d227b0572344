"""Listeners who know what they should hear."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import httpx

from loadtest.playback import PCM_BYTES_PER_SECOND
from loadtest.texts import LONG, MEDIUM

Outcome = Literal["whole", "cut", "refused", "unreachable", "wrong", "left"]
"""wrong: it ended as if it were whole, and was shorter or longer. cut: it broke off, and the client could tell. left:
the listener hung up."""
Manner = Literal["plain", "slow", "hangs up"]
"""slow: takes the audio at half the speed at which it plays. hangs up: after the first of it."""
TEXTS = LONG + MEDIUM
_AGAIN_S = 0.2
_SLOW_BYTES_PER_SECOND = PCM_BYTES_PER_SECOND / 2
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One request and what became of it; times of time.monotonic."""

    begin: float
    first: float | None
    """When the first audio came."""
    end: float
    outcome: Outcome
    samples: int


def listen(url: str, text: str, wanted: int | None, *, seed: int = 5, manner: Manner = "plain") -> Heard:
    """Ask for a text, and hear it to its end. `wanted`: the samples that it has; None: any number."""
    body = {"input": text, "seed": seed, "response_format": "pcm"}
    begin, first, count = time.monotonic(), None, 0
    outcome: Outcome = "whole"
    try:
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=body, timeout=_TIMEOUT_S) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                first = first or time.monotonic()
                count += len(part)
                if manner == "hangs up":
                    outcome = "left"
                    break
                if manner == "slow":
                    time.sleep(len(part) / _SLOW_BYTES_PER_SECOND)
    except httpx.HTTPStatusError:
        outcome = "refused"
    except (httpx.ConnectError, httpx.ConnectTimeout):
        outcome = "unreachable"
    except httpx.TransportError:
        outcome = "cut"
    if outcome == "whole" and (count % 2 or (wanted is not None and count // 2 != wanted)):
        outcome = "wrong"
    return Heard(begin, first, time.monotonic(), outcome, count // 2)


def length(url: str, text: str, seed: int = 5) -> int:
    """Samples of a text while all is well. Raises RuntimeError where it does not come whole."""
    heard = listen(url, text, None, seed=seed)
    if heard.outcome != "whole":
        raise RuntimeError(f"The service is not well: {text[:30]!r} was {heard.outcome}.")
    return heard.samples


class Listeners:
    """So many at a time, each asking again as soon as it has its answer.

    How long it should be is heard first, while all is well: with `dummy:tiny` its length follows from the text alone.
    """

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self._wanted = {text: length(url, text) for text in TEXTS}
        self.heard: list[Heard] = []
        self._over = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """At the end of the block they take no further one, and all have their answers."""
        threads = [threading.Thread(target=self._listen, args=(number,)) for number in range(self._count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def outcomes(self, begin: float = 0.0, end: float = float("inf")) -> dict[str, int]:
        """Of the requests that were under way at some time between the two."""
        return dict(Counter(one.outcome for one in self.heard if one.begin <= end and one.end >= begin))

    def _listen(self, number: int) -> None:
        chosen = random.Random(number)
        while not self._over.is_set():
            text = chosen.choice(TEXTS)
            self.heard.append(listen(self._url, text, self._wanted[text]))
            if self.heard[-1].outcome != "whole":
                time.sleep(_AGAIN_S)
