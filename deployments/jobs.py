"""The jobs deployment: long texts, spoken beside live traffic and kept in a folder."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.errors import InvalidRequest, Overloaded
from chatterbox_engine.types import SAMPLE_RATE, SpeechRequest
from deployments.book import MEDIA_TYPES, BookFormat, chapters
from deployments.faults import StoreUnavailable, Stream, answers, streams
from deployments.job_runner import Runner
from deployments.job_store import Job, JobStore, Status, WrongState
from deployments.metrics import PERIOD_S, Report
from deployments.settings import ServiceSettings
from deployments.watchdog import watch

logger = logging.getLogger("ray.serve")

_AGAIN_S = 2.0
_BLOCK = 2**18
"""Bytes of a file that are read at a time."""
_OPEN: tuple[Status, ...] = ("queued", "paused", "failed")
_MOST_OPEN = 100
"""Jobs that are not over, of one key."""


@serve.deployment(max_ongoing_requests=1000, health_check_period_s=2, health_check_timeout_s=3)
class Jobs:
    """A folder of jobs. One replica works on it; another that finds it taken waits for its end."""

    def __init__(self, settings: ServiceSettings, s3gen: DeploymentHandle) -> None:
        self._folder = settings.jobs_folder
        self._streams = settings.job_streams
        self._speak = partial(Stream, s3gen, "speak")
        self._why = "The jobs' store is being opened."
        self._opened: tuple[JobStore, Runner] | None = None
        self._opening = asyncio.ensure_future(self._open())
        self._reporting = asyncio.ensure_future(self._report(Report()))
        watch()

    async def _open(self) -> None:
        while self._opened is None:
            try:
                store = await asyncio.to_thread(JobStore, self._folder)
                self._opened = store, Runner(store, self._speak, self._streams)
            except (StoreUnavailable, OSError) as error:
                if str(error) != self._why:
                    logger.warning("jobs: %s", error)
                self._why = str(error)
                await asyncio.sleep(_AGAIN_S)

    async def _report(self, report: Report) -> None:
        await self._opening
        store, runner = self._need()
        while True:
            queued = await asyncio.to_thread(store.queued)
            report.tell({"jobs_queued": len(queued), "job_pieces": runner.said})
            await asyncio.sleep(PERIOD_S)

    @answers
    async def add(
        self, owner: str | None, title: str, form: BookFormat, asked: SpeechRequest, piece_characters: int | None
    ) -> dict[str, Any]:
        """Begin a job. Raises InvalidRequest, Overloaded, StoreUnavailable."""
        store, runner = self._need()
        if sum(job.status in _OPEN for job in await asyncio.to_thread(store.of, owner)) >= _MOST_OPEN:
            raise Overloaded(60.0, f"There are {_MOST_OPEN} jobs already that are not over.")
        parts = await asyncio.to_thread(chapters, asked.text, title, piece_characters, asked.language)
        job = await asyncio.to_thread(store.add, owner, title, form, asked, parts)
        runner.wake()
        return await self._found(job, owner)

    @answers
    async def catalogue(self, owner: str | None) -> list[dict[str, Any]]:
        """Raises StoreUnavailable."""
        store, _ = self._need()
        return [self._told(job) for job in await asyncio.to_thread(store.of, owner)]

    @answers
    async def describe(self, job: str, owner: str | None) -> dict[str, Any]:
        """Raises UnknownJob, StoreUnavailable."""
        store, _ = self._need()
        told = await self._found(job, owner)
        marks = [
            {"title": title, "start": begin / SAMPLE_RATE, "end": end / SAMPLE_RATE}
            for title, begin, end in await asyncio.to_thread(store.marks, job)
        ]
        return {**told, "chapters": marks}

    @answers
    async def pause(self, job: str, owner: str | None) -> dict[str, Any]:
        """The piece that is being said is left. Raises UnknownJob, WrongState, StoreUnavailable."""
        return await self._change(job, owner, ("queued",), "paused")

    @answers
    async def resume(self, job: str, owner: str | None) -> dict[str, Any]:
        """Also after a failure. Raises UnknownJob, WrongState, StoreUnavailable."""
        return await self._change(job, owner, ("paused", "failed"), "queued")

    @answers
    async def cancel(self, job: str, owner: str | None) -> dict[str, Any]:
        """What was said is let go. Raises UnknownJob, WrongState, StoreUnavailable."""
        return await self._change(job, owner, _OPEN, "cancelled")

    @answers
    async def delete(self, job: str, owner: str | None) -> None:
        """With its file. Raises UnknownJob, StoreUnavailable."""
        store, _ = self._need()
        found = await asyncio.to_thread(store.get, job, owner)
        await asyncio.to_thread(store.remove, found.id)

    @answers
    async def file(self, job: str, owner: str | None) -> tuple[str, str, int]:
        """A done job's file: its name, media type and size. Raises UnknownJob, WrongState, StoreUnavailable."""
        store, _ = self._need()
        found = await asyncio.to_thread(store.get, job, owner)
        if found.status != "done":
            raise WrongState(found.id, found.status, "its file is there when it is done")
        path = store.path(job, found.form)
        return path.name, MEDIA_TYPES[found.form], path.stat().st_size

    @streams
    async def read(self, job: str, owner: str | None, begin: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [begin, end) of its file. Raises UnknownJob, StoreUnavailable."""
        store, _ = self._need()
        found = await asyncio.to_thread(store.get, job, owner)
        with store.path(job, found.form).open("rb") as file:
            file.seek(begin)
            while begin < end:
                data = await asyncio.to_thread(file.read, min(_BLOCK, end - begin))
                if not data:
                    raise InvalidRequest("The file is shorter than asked for.", "range")
                begin += len(data)
                yield data

    def check_health(self) -> None:
        if self._opened is not None and (error := self._opened[1].failed()) is not None:
            raise error

    async def _change(self, job: str, owner: str | None, begin: tuple[Status, ...], to: Status) -> dict[str, Any]:
        store, runner = self._need()
        found = await asyncio.to_thread(store.get, job, owner)
        if not await asyncio.to_thread(store.change, found.id, begin, to):
            raise WrongState(found.id, found.status, f"only jobs that are {' or '.join(begin)} become {to}")
        runner.wake()
        return await self._found(job, owner)

    async def _found(self, job: str, owner: str | None) -> dict[str, Any]:
        store, _ = self._need()
        return self._told(await asyncio.to_thread(store.get, job, owner))

    def _need(self) -> tuple[JobStore, Runner]:
        if self._opened is None:
            raise StoreUnavailable(self._why)
        return self._opened

    def _told(self, job: Job) -> dict[str, Any]:
        _, runner = self._need()
        left = None
        if job.characters_done and job.status in _OPEN:
            a_character = job.busy_s / job.characters_done / self._streams
            left = round((job.characters - job.characters_done) * a_character, 1)
        return {
            "id": job.id,
            "object": "audio.job",
            "title": job.title,
            "created": int(job.created),
            "status": "running" if job.status == "queued" and runner.works_on(job.id) else job.status,
            "error": job.error,
            "response_format": job.form,
            "pieces": job.pieces,
            "pieces_done": job.pieces_done,
            "characters": job.characters,
            "seconds": job.samples / SAMPLE_RATE,
            "seconds_left": left,
        }
