"""An utterance as its listener gets it: from one replica of S3Gen, and from another where that one ends before it."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from ray.serve.handle import DeploymentHandle

from chatterbox_engine.errors import EngineDead
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, Interrupted, Progress, SpeechRequest
from deployments.faults import AGAIN_S, GONE, LIVES, Stream

logger = logging.getLogger("ray.serve")

_BACK_S = 60.0
"""A listener is not kept waiting longer for a replica to be there."""


class Speech:
    """The chunks of an utterance. What was heard is not said again; the rest is what would have been heard."""

    def __init__(self, s3gen: DeploymentHandle, request: SpeechRequest, went_on: Callable[[], None]) -> None:
        """`went_on`: told each time that another replica goes on."""
        self._open = partial(Stream, s3gen, "speak", request)
        self._speed = request.speed
        self._went_on = went_on
        self._stream = self._open()
        self._lives = LIVES
        self._broke: BaseException | None = None
        """What the replica before ended with, until more is heard."""
        self._progress: Progress | None = None
        self._samples = 0
        self._heard_since = 0.0

    def __aiter__(self) -> "Speech":
        return self

    async def __anext__(self) -> AudioChunk:
        """Raises what S3Gen raises, or what its replica ended with where no other goes on."""
        while True:
            try:
                async with asyncio.timeout(_BACK_S if self._broke else None):
                    chunk: AudioChunk = await anext(self._stream)
            except GONE as error:
                await self._go_on(error)
            except TimeoutError:
                raise self._broke or EngineDead("S3Gen gave no answer in time.") from None
            else:
                return self._heard(chunk)

    def _heard(self, chunk: AudioChunk) -> AudioChunk:
        self._lives, self._broke = LIVES, None
        if not self._samples:
            self._heard_since = time.monotonic()
        self._samples += len(chunk.samples)
        self._progress = chunk.progress
        return chunk

    async def _go_on(self, error: BaseException) -> None:
        """With another replica, or with the same when it is back. Raises `error` where that has not helped."""
        self._lives -= 1
        if not self._lives:
            raise error
        self._broke = error
        self._stream.cancel()
        await asyncio.sleep(AGAIN_S)
        logger.warning("S3Gen broke off after %.2f s; another replica goes on.", self._samples / SAMPLE_RATE)
        if self._progress is None or not self._samples:
            self._stream = self._open()
        else:
            slack_s = self._heard_since + self._samples / SAMPLE_RATE / self._speed - time.monotonic()
            self._stream = self._open(Interrupted(self._progress, self._samples, slack_s))
        self._went_on()

    def cancel(self) -> None:
        """End it. Safe after its end."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """`cancel`, by the name that generators have for it."""
        self.cancel()
