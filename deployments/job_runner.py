"""What works on jobs: piece after piece, whatever breaks meanwhile."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol

import numpy as np

from chatterbox_engine.errors import InvalidRequest, Overloaded, UnknownVoice
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, SamplingParams, SpeechRequest
from deployments.book import bind
from deployments.job_store import JobStore, Task
from deployments.wav import pcm16

logger = logging.getLogger("ray.serve")

_AGAIN_S = 1.0
"""After a piece that could not be said; twice as long after each further one."""
_LONGEST_S = 30.0
_LIVES = 10
"""Tries of a piece: what breaks a replica may break the next."""


class Sound(Protocol):
    """An utterance on its way; `faults.Stream` is one."""

    def __aiter__(self) -> AsyncIterator[AudioChunk]: ...
    async def aclose(self) -> None: ...


class Cancelled(Exception):
    """The job of a piece is not to be worked on any more."""


class Runner:
    """Says the pieces of all jobs, oldest job first, and makes each job's file when it is whole.

    A piece is said by itself, with a seed of its own, and is kept as a whole: what was kept before an interruption is
    not said again, and the rest sounds as it would have.
    """

    def __init__(self, store: JobStore, speak: Callable[[SpeechRequest], Sound], streams: int) -> None:
        """`speak`: one utterance; `streams`: pieces said at a time."""
        self._store = store
        self._speak = speak
        self._taken: set[tuple[str, int]] = set()
        self._bound: set[str] = set()
        """Jobs whose file is being made."""
        self._broken: Counter[tuple[str, int]] = Counter()
        self.said = 0
        """Pieces since the start."""
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._workers = [asyncio.create_task(self._work()) for _ in range(streams)]
        self._workers.append(asyncio.create_task(self._clear()))

    def wake(self) -> None:
        """There is something new to do."""
        self._news.set()
        self._over.set()

    def works_on(self, job: str) -> bool:
        """A piece of it is being said, or its file made."""
        return job in self._bound or any(name == job for name, _ in self._taken)

    def failed(self) -> BaseException | None:
        """What ended a worker, which nothing should."""
        ended = (worker for worker in self._workers if worker.done() and not worker.cancelled())
        return next((error for worker in ended if (error := worker.exception()) is not None), None)

    async def stop(self) -> None:
        """Leave the pieces that are being said."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        pause_s = 0.0
        while True:
            self._news.clear()
            task, whole = self._next()
            if task is not None:
                pause_s = 0.0 if await self._say(task) else min(max(2 * pause_s, _AGAIN_S), _LONGEST_S)
                await asyncio.sleep(pause_s)
            elif whole is not None:
                await self._finish(whole)
            else:
                await self._news.wait()

    async def _clear(self) -> None:
        """What is left of jobs that are over, as of those before the start."""
        while True:
            self._over.clear()
            while await asyncio.to_thread(self._store.clear):
                pass
            await self._over.wait()

    def _next(self) -> tuple[Task | None, str | None]:
        """A piece to say, or a job to make the file of."""
        for job in self._store.queued():
            taken = [number for name, number in self._taken if name == job]
            task = self._store.task(job, taken)
            if task is not None:
                return task, None
            if not taken and job not in self._bound and self._store.whole(job):
                return None, job
        return None, None

    async def _say(self, task: Task) -> bool:
        """Whether something came of it: else it is to be tried again, later."""
        key = task.job, task.number
        self._taken.add(key)
        begin = time.monotonic()
        try:
            samples = await self._spoken(task)
            await asyncio.to_thread(self._store.keep, task, samples, time.monotonic() - begin)
            self._broken.pop(key, None)
            self.said += 1
        except Cancelled:
            pass
        except (InvalidRequest, UnknownVoice) as error:
            self._fail(task, error)
        except Overloaded:
            return False
        except Exception as error:  # replicas come back; the text can be said then
            self._broken[key] += 1
            if self._broken[key] < _LIVES:
                logger.warning("%s: piece %d is to be said again (%s).", task.job, task.number, type(error).__name__)
                return False
            self._fail(task, error)
        finally:
            self._taken.discard(key)
            self._news.set()
        return True

    def _fail(self, task: Task, error: Exception) -> None:
        self._broken.pop((task.job, task.number), None)
        self._store.change(task.job, ("queued", "paused"), "failed", str(error))
        logger.warning("%s failed at piece %d (%s).", task.job, task.number, type(error).__name__)

    async def _spoken(self, task: Task) -> np.ndarray:
        """The piece and its pause, (n,) int16. Raises Cancelled, and whatever `speak` does."""
        sampling = SamplingParams.model_validate_json(task.sampling)
        own = sampling.model_copy(update={"seed": derive_seed(sampling.seed, task.number)})
        request = SpeechRequest(task.text, task.voice, own, task.language, paced=False)
        parts, final = [], False
        async with aclosing(self._speak(request)) as sound:
            async for chunk in sound:
                parts.append(chunk.samples)
                final = chunk.final
                if final:
                    break
                if self._store.status(task.job) != "queued":
                    raise Cancelled
        if not final:
            raise EOFError("The utterance broke off.")
        parts.append(np.zeros(round(task.pause_s * SAMPLE_RATE), np.float32))
        return np.frombuffer(pcm16(np.concatenate(parts)), np.int16)

    async def _finish(self, job: str) -> None:
        self._bound.add(job)
        try:
            await asyncio.to_thread(self._bind, job)
        except Exception as error:
            logger.exception("%s: its file cannot be made", job)
            self._store.change(job, ("queued",), "failed", f"The file could not be made: {error}")
        finally:
            self._bound.discard(job)
            self._over.set()

    def _bind(self, job: str) -> None:
        title, form = self._store.label(job)
        bind(self._store.sounds(job), self._store.marks(job), title, form, self._store.path(job, form))
        if not self._store.change(job, ("queued",), "done"):  # cancelled or paused meanwhile
            self._store.path(job, form).unlink(missing_ok=True)
