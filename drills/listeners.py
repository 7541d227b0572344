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
import numpy as np

from loadtest.texts import LONG, MEDIUM

Outcome = Literal["whole", "cut", "refused", "unreachable", "wrong"]
"""wrong: it ended as if it were whole, and was shorter or longer. cut: it broke off, and the client could tell."""
TEXTS = LONG + MEDIUM
_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Heard:
    """One request and what became of it; times of time.monotonic."""

    begin: float
    first: float | None
    """When the first audio came."""
    end: float
    outcome: Outcome


class Listeners:
    """So many at a time, each asking again as soon as it has its answer.

    How long it should be is heard first, while all is well: with `dummy:tiny` its length follows from the text alone.
    """

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self._wanted = {text: len(self._hear(text)[1]) for text in TEXTS}
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
            begin = time.monotonic()
            first, samples, outcome = None, np.zeros(0, np.int16), "whole"
            try:
                first, samples = self._hear(text)
            except httpx.HTTPStatusError:
                outcome = "refused"
            except (httpx.ConnectError, httpx.ConnectTimeout):
                outcome = "unreachable"
            except httpx.TransportError:
                outcome = "cut"
            if outcome == "whole" and len(samples) != self._wanted[text]:
                outcome = "wrong"
            self.heard.append(Heard(begin, first, time.monotonic(), outcome))  # type: ignore[arg-type]
            if outcome != "whole":
                time.sleep(_AGAIN_S)

    def _hear(self, text: str) -> tuple[float | None, np.ndarray]:
        """When its first audio came, and all of it, (n,) int16. Raises httpx.HTTPError."""
        body = {"input": text, "seed": 5, "response_format": "pcm"}
        first, parts = None, []
        with httpx.stream("POST", f"{self._url}/v1/audio/speech", json=body, timeout=120) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                first = first or time.monotonic()
                parts.append(part)
        data = b"".join(parts)
        return first, np.frombuffer(data[: len(data) // 2 * 2], "<i2")
