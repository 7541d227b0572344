"""Jobs on the disk: what was kept is there after whatever happened."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chatterbox_engine.text import Piece
from chatterbox_engine.types import SamplingParams, SpeechRequest
from deployments.book import Chapter
from deployments.faults import StoreUnavailable
from deployments.job_store import _AT_ONCE, JobStore, UnknownJob

PARTS = [Chapter("One", (Piece("First.", 0.2), Piece("Second.", 1.5))), Chapter("Two", (Piece("Third.", 0.0),))]
ASKED = SpeechRequest("", "default", SamplingParams(seed=5), "en")
SOUND = np.arange(-500, 500, dtype=np.int16)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def say(store: JobStore, job: str) -> None:
    while (task := store.task(job, ())) is not None:
        store.keep(task, SOUND + task.number, 2.0)


def test_pieces_are_given_out_and_kept_in_order(store: JobStore) -> None:
    job = store.add("anna", "Book", "flac", ASKED, PARTS)
    tasks = [store.task(job, range(n)) for n in range(4)]
    assert [task and (task.text, task.pause_s) for task in tasks] == [
        ("First.", 0.2), ("Second.", 1.5), ("Third.", 0.0), None,
    ]  # fmt: skip
    second = tasks[1]
    assert second is not None
    store.keep(second, SOUND, 3.0)
    assert store.task(job, [0]) == tasks[2]
    told = store.get(job, "anna")
    assert (told.pieces, told.pieces_done, told.characters, told.characters_done) == (3, 1, 19, 7)
    assert (told.samples, told.busy_s, told.status) == (1000, 3.0, "queued")
    assert not store.whole(job)
    say(store, job)
    assert store.whole(job)
    for number, sound in enumerate(store.sounds(job)):
        np.testing.assert_array_equal(sound, SOUND + (number if number != 1 else 0))
    assert store.marks(job) == [("One", 0, 2000), ("Two", 2000, 3000)]


def test_a_job_is_its_owners_alone(store: JobStore) -> None:
    job = store.add("anna", "Book", "flac", ASKED, PARTS)
    for other in ("ben", None):
        assert store.of(other) == []
        with pytest.raises(UnknownJob, match=job):
            store.get(job, other)
    assert [found.id for found in store.of("anna")] == [job]


def test_what_is_over_lets_its_text_go(store: JobStore, tmp_path: Path) -> None:
    job = store.add(None, "Book", "flac", ASKED, [Chapter("One", (Piece("A secret text." * 50, 0.0),))])
    task = store.task(job, ())
    assert task is not None
    assert not store.change(job, ("paused",), "queued")
    assert store.change(job, ("queued",), "cancelled")
    assert store.task(job, ()) is None
    store.keep(task, SOUND, 1.0)
    assert store.get(job, None).pieces_done == 0
    assert store.clear()
    assert not store.clear()
    store.path(job, "flac").write_bytes(b"")
    store.remove(job)
    assert store.of(None) == []
    assert not store.path(job, "flac").exists()
    store.close()
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_large_job_is_let_go_of_bit_by_bit_and_the_disk_gets_its_room(store: JobStore, tmp_path: Path) -> None:
    parts = [Chapter("One", tuple(Piece(f"Piece {number}.", 0.0) for number in range(3 * _AT_ONCE)))]
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, 50_000).astype(np.int16)
    other = store.add(None, "Short", "flac", ASKED, PARTS)
    for job, over in ((store.add(None, "Book", "flac", ASKED, parts), "cancelled"), (other, "paused")):
        while (task := store.task(job, ())) is not None:
            store.keep(task, noise, 1.0)
        store.change(job, ("queued",), over)  # type: ignore[arg-type]
    assert [store.clear() for _ in range(5)] == [True, True, True, False, False]
    assert len(list(store.sounds(other))) == 3
    store.close()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 6 * noise.nbytes


def test_a_job_of_any_state_can_be_deleted_with_what_it_kept(store: JobStore) -> None:
    for status in ("queued", "paused", "failed", "done", "cancelled"):
        job = store.add(None, "Book", "flac", ASKED, PARTS)
        say(store, job)
        store.change(job, ("queued",), status)  # type: ignore[arg-type]
        store.path(job, "flac").write_bytes(b"")
        store.remove(job)
        assert store.of(None) == []
        assert store.status(job) is None
        assert not store.path(job, "flac").exists()
    assert not store.clear()


def test_a_write_that_fails_leaves_nothing(store: JobStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.add(None, "Book", "flac", ASKED, [Chapter("One", (Piece("Text.", None),))])  # type: ignore[arg-type]
    assert store.of(None) == []
    assert store.queued() == []


def test_one_process_alone_has_the_file_until_it_dies(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from deployments.job_store import JobStore\n"
        "from tests.deployments.test_job_store import ASKED, PARTS, SOUND\n"
        f"store = JobStore(Path({str(tmp_path)!r})); job = store.add(None, 'Book', 'flac', ASKED, PARTS)\n"
        "store.keep(store.task(job, ()), SOUND, 1.0)\n"
        "print(job, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        job = other.stdout.readline().strip()
        with pytest.raises(StoreUnavailable, match="jobs_folder"):
            JobStore(tmp_path, wait_s=0.1)
        other.kill()
    store = JobStore(tmp_path)
    assert store.get(job, None).pieces_done == 1
    assert store.queued() == [job]
    store.close()
