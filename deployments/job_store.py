"""Jobs, and what has been said of them, in an SQLite file: each piece of text is there as a whole or not at all."""

import io
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from chatterbox_engine.errors import ChatterboxError
from chatterbox_engine.types import SAMPLE_RATE, SpeechRequest
from deployments.book import BookFormat, Chapter
from deployments.faults import StoreUnavailable

Status = Literal["queued", "paused", "done", "failed", "cancelled"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
  id TEXT PRIMARY KEY, owner TEXT, title TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL, error TEXT,
  voice TEXT NOT NULL, sampling TEXT NOT NULL, language TEXT NOT NULL, form TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chapter (job TEXT NOT NULL, number INTEGER NOT NULL, title TEXT NOT NULL,
  PRIMARY KEY (job, number));
CREATE TABLE IF NOT EXISTS piece (
  job TEXT NOT NULL, number INTEGER NOT NULL, chapter INTEGER NOT NULL, characters INTEGER NOT NULL, text TEXT,
  pause_s REAL NOT NULL, samples INTEGER, sound BLOB, seconds REAL, PRIMARY KEY (job, number));
CREATE INDEX IF NOT EXISTS kept ON piece (job) WHERE text IS NOT NULL;
"""
_PRAGMAS = ("auto_vacuum = INCREMENTAL", "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL",
            "secure_delete = ON")  # fmt: skip
"""Freed pages go back to the disk, which must be said before the file has any; one service alone works on the file;
what is said to be kept is on the disk; a deleted job's text is overwritten."""
_AT_ONCE = 20
"""Pieces let go of in one transaction, some MB: whoever else asks waits for it."""


class UnknownJob(ChatterboxError):
    """The caller has no job of that id."""

    def __init__(self, job: str) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"There is no job {self.job!r}. GET /v1/audio/jobs lists the jobs there are."


class WrongState(ChatterboxError):
    """What was asked for cannot be done with the job as it is."""

    def __init__(self, job: str, status: str, rule: str) -> None:
        super().__init__(job, status, rule)

    def __str__(self) -> str:
        job, status, rule = self.args
        return f"The job {job} is {status}; {rule}."


@dataclass(frozen=True, slots=True)
class Job:
    """A text that is being spoken, without the text."""

    id: str
    owner: str | None
    """The name of the key that asked for it."""
    title: str
    created: float
    status: Status
    error: str | None
    form: BookFormat
    pieces: int
    pieces_done: int
    characters: int
    characters_done: int
    samples: int
    busy_s: float
    """Seconds that the pieces took, each by itself."""


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a job that is to be said."""

    job: str
    number: int
    text: str
    pause_s: float
    voice: str
    sampling: str
    """SamplingParams as JSON, of the whole job."""
    language: str


class JobStore:
    """The only holder of its file. Methods may be called from any thread."""

    def __init__(self, folder: Path, wait_s: float = 5.0) -> None:
        """`wait_s`: for a process that has the file and is about to end.

        Raises StoreUnavailable, OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._base = sqlite3.connect(
            folder / "jobs.sqlite", timeout=wait_s, isolation_level=None, check_same_thread=False
        )
        self._base.row_factory = sqlite3.Row
        try:
            for pragma in _PRAGMAS:
                self._base.execute(f"PRAGMA {pragma}")
            with self._write() as base:
                for statement in _SCHEMA.split(";")[:-1]:
                    base.execute(statement)
        except sqlite3.OperationalError as error:
            self._base.close()
            raise StoreUnavailable(
                f"Another service works on the jobs in {folder}; give each its own jobs_folder."
            ) from error

    def close(self) -> None:
        """Whoever still wants something of it gets sqlite3.ProgrammingError."""
        with self._lock:
            self._base.close()

    def add(
        self, owner: str | None, title: str, form: BookFormat, asked: SpeechRequest, parts: Sequence[Chapter]
    ) -> str:
        """Keep a job, and return its id. `asked` is for all pieces, its text aside."""
        job = f"job-{uuid.uuid4().hex}"
        sampling = asked.sampling.model_dump_json()
        pieces = [(number, piece) for number, part in enumerate(parts) for piece in part.pieces]
        with self._write() as base:
            base.execute(
                "INSERT INTO job VALUES (?, ?, ?, ?, 'queued', NULL, ?, ?, ?, ?)",
                (job, owner, title, time.time(), asked.voice, sampling, asked.language, form),
            )
            base.executemany(
                "INSERT INTO chapter VALUES (?, ?, ?)", ((job, number, part.title) for number, part in enumerate(parts))
            )
            base.executemany(
                "INSERT INTO piece VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
                (
                    (job, number, chapter, len(piece.text), piece.text, piece.pause_s)
                    for number, (chapter, piece) in enumerate(pieces)
                ),
            )
        return job

    def get(self, job: str, owner: str | None) -> Job:
        """Raises UnknownJob."""
        for found in self._jobs("job.id = ? AND job.owner IS ?", job, owner):
            return found
        raise UnknownJob(job)

    def of(self, owner: str | None) -> list[Job]:
        """The owner's, oldest first."""
        return self._jobs("job.owner IS ?", owner)

    def queued(self) -> list[str]:
        """Jobs to work on, oldest first."""
        rows = self._read("SELECT id FROM job WHERE status = 'queued' ORDER BY created, id")
        return [str(row["id"]) for row in rows]

    def status(self, job: str) -> Status | None:
        """None where it is gone."""
        for row in self._read("SELECT status FROM job WHERE id = ?", job):
            status: Status = row["status"]
            return status
        return None

    def change(self, job: str, begin: tuple[Status, ...], to: Status, error: str | None = None) -> bool:
        """Bring a job from one of some statuses into another; whether it was in one of them."""
        with self._write() as base:
            marks = ", ".join("?" * len(begin))
            changed = base.execute(
                f"UPDATE job SET status = ?, error = ? WHERE id = ? AND status IN ({marks})",
                (to, error, job, *begin),
            )
        return bool(changed.rowcount)

    def clear(self) -> bool:
        """Let go of texts and sounds of jobs that are over, some pieces at a time; whether there were any."""
        with self._write() as base:
            cleared = base.execute(
                "UPDATE piece SET text = NULL, sound = NULL WHERE rowid IN (SELECT piece.rowid FROM job "
                "JOIN piece ON piece.job = job.id WHERE status IN ('done', 'cancelled') AND text IS NOT NULL LIMIT ?)",
                (_AT_ONCE,),
            )
        self._shrink()
        return bool(cleared.rowcount)

    def remove(self, job: str) -> None:
        """With its file. Takes its time, during which others are served."""
        with self._write() as base:
            base.execute("UPDATE job SET status = 'cancelled' WHERE id = ?", (job,))
        for form in self._read("SELECT form FROM job WHERE id = ?", job):
            self.path(job, form["form"]).unlink(missing_ok=True)
        while self.clear():
            pass
        with self._write() as base:
            for table, name in (("piece", "job"), ("chapter", "job"), ("job", "id")):
                base.execute(f"DELETE FROM {table} WHERE {name} = ?", (job,))
        self._shrink()

    def task(self, job: str, taken: Iterable[int]) -> Task | None:
        """The first piece of a queued job that is neither said nor among `taken`."""
        held = set(taken)
        rows = self._read(
            "SELECT job, number, text, pause_s, voice, sampling, language FROM piece JOIN job ON job.id = piece.job "
            "WHERE job = ? AND status = 'queued' AND samples IS NULL ORDER BY number LIMIT ?",
            job, len(held) + 1,
        )  # fmt: skip
        return next((Task(*row) for row in rows if row["number"] not in held), None)

    def keep(self, task: Task, samples: np.ndarray, seconds: float) -> None:
        """A piece is said: (n,) int16, with the pause after it, in so many seconds. Not where its job is over."""
        sound = _packed(samples)
        with self._write() as base:
            base.execute(
                "UPDATE piece SET samples = ?, sound = ?, seconds = ? WHERE job = ? AND number = ? "
                "AND (SELECT status FROM job WHERE id = piece.job) NOT IN ('done', 'cancelled')",
                (len(samples), sound, seconds, task.job, task.number),
            )

    def whole(self, job: str) -> bool:
        """Every piece is said."""
        return not self._read("SELECT 1 FROM piece WHERE job = ? AND samples IS NULL LIMIT 1", job)

    def sounds(self, job: str) -> Iterator[np.ndarray]:
        """Each piece's, (n,) int16, in order."""
        for (number,) in self._read("SELECT number FROM piece WHERE job = ? ORDER BY number", job):
            (row,) = self._read("SELECT sound FROM piece WHERE job = ? AND number = ?", job, number)
            samples, _ = soundfile.read(io.BytesIO(row["sound"]), dtype="int16")
            yield samples

    def marks(self, job: str) -> list[tuple[str, int, int]]:
        """Each chapter's title, its first sample and its end, as far as pieces are said."""
        rows = self._read(
            "SELECT title, total(samples) AS samples FROM chapter JOIN piece ON piece.job = chapter.job "
            "AND piece.chapter = chapter.number WHERE chapter.job = ? GROUP BY chapter.number ORDER BY chapter.number",
            job,
        )
        marks, at = [], 0
        for row in rows:
            marks.append((str(row["title"]), at, at + int(row["samples"])))
            at = marks[-1][2]
        return marks

    def label(self, job: str) -> tuple[str, BookFormat]:
        """Its title and its file's format."""
        ((title, form),) = self._read("SELECT title, form FROM job WHERE id = ?", job)
        return title, form

    def path(self, job: str, form: str) -> Path:
        """Where its file is, once it is done."""
        return self._folder / f"{job}.{form}"

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        rows = self._read(
            "SELECT job.id, owner, title, created, status, error, form, count(number) AS pieces, "
            "count(samples) AS pieces_done, total(characters) AS characters, "
            "total(CASE WHEN samples IS NULL THEN 0 ELSE characters END) AS characters_done, "
            "total(samples) AS samples, total(seconds) AS busy_s "
            f"FROM job LEFT JOIN piece ON piece.job = job.id WHERE {where} "
            "GROUP BY job.id ORDER BY created, job.id",
            *values,
        )
        whole = ("pieces", "pieces_done", "characters", "characters_done", "samples")
        found: Iterable[dict[str, Any]] = ({key: row[key] for key in Job.__slots__} for row in rows)
        return [Job(**{**row, **{key: int(row[key]) for key in whole}}) for row in found]

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, closing(self._base.execute(query, values)) as found:
            return found.fetchall()

    def _shrink(self) -> None:
        """Give freed pages back to the disk."""
        with self._lock:
            self._base.executescript("PRAGMA incremental_vacuum")  # `execute` ends after the first page

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """All that is done within it, or nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")


def _packed(samples: np.ndarray) -> bytes:
    """(n,) int16 as FLAC, which loses nothing."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
