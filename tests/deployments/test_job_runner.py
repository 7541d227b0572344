"""Jobs are said to their end, each piece once, whatever breaks on the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.errors import ChatterboxError, EngineDead, Overloaded, UnknownVoice
from chatterbox_engine.text import Piece
from chatterbox_engine.types import AudioChunk, SamplingParams, SpeechRequest
from deployments import job_runner
from deployments.book import Chapter
from deployments.job_runner import Runner
from deployments.job_store import JobStore

PIECES = 6
PARTS = [Chapter("One", tuple(Piece(f"Piece {number}.", 0.01) for number in range(PIECES)))]
ASKED = SpeechRequest("", "default", SamplingParams(seed=5), "en")
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "_AGAIN_S", 0.001)
    monkeypatch.setattr(job_runner, "_LONGEST_S", 0.002)


class Voice:
    """Says a piece as noise of its own seed, in two chunks; some calls go wrong."""

    def __init__(self, wrong: dict[int, Exception] | None = None) -> None:
        self.said: Counter[str] = Counter()
        self.calls = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self._wrong = wrong or {}

    async def __call__(self, request: SpeechRequest) -> AsyncIterator[AudioChunk]:
        self.calls += 1
        call = self.calls
        noise = np.random.default_rng(request.sampling.seed).uniform(-0.5, 0.5, 200).astype(np.float32)
        yield AudioChunk(noise[:100], False)
        await self.hold.wait()
        if call in self._wrong:
            raise self._wrong[call]
        self.said[request.text] += 1
        yield AudioChunk(noise[100:], True)


async def until(store: JobStore, job: str, *status: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while store.status(job) not in status:
            await asyncio.sleep(0.002)


async def told(folder: Path, voice: Voice, stops: tuple[int, ...] = (), streams: int = 1) -> np.ndarray:
    """The file of a job during which the runner was stopped, its store left and opened again, after so many calls."""
    store = JobStore(folder)
    job = store.add(None, "Book", "flac", ASKED, PARTS)
    for calls in stops:
        runner = Runner(store, voice, streams)
        async with asyncio.timeout(WAIT_S):
            while voice.calls < calls and store.status(job) == "queued":
                await asyncio.sleep(0)
        await runner.stop()
        store.close()
        store = JobStore(folder)
    runner = Runner(store, voice, streams)
    await until(store, job, "done")
    await runner.stop()
    samples, _ = soundfile.read(store.path(job, "flac"), dtype="int16")
    assert store.get(job, None).samples == len(samples) == PIECES * (200 + 240)
    assert runner.failed() is None
    store.close()
    return np.asarray(samples)


@settings(max_examples=15)
@given(
    stops=st.lists(st.integers(0, 8), max_size=3).map(sorted),
    wrong=st.dictionaries(
        st.integers(1, 10), st.sampled_from([EngineDead("gone"), Overloaded(), OSError()]), max_size=4
    ),
    streams=st.integers(1, 3),
)
def test_whatever_breaks_it_is_the_same_book(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], wrong: dict[int, Exception], streams: int
) -> None:
    undisturbed = asyncio.run(told(tmp_path_factory.mktemp("jobs"), Voice()))
    voice = None

    async def disturbed() -> np.ndarray:
        nonlocal voice
        voice = Voice(wrong)
        return await told(tmp_path_factory.mktemp("jobs"), voice, tuple(stops), streams)

    np.testing.assert_array_equal(asyncio.run(disturbed()), undisturbed)
    assert voice is not None
    assert set(voice.said) == {piece.text for piece in PARTS[0].pieces}
    if not stops:
        assert set(voice.said.values()) == {1}


@pytest.mark.parametrize("error", [UnknownVoice("gone"), EngineDead("It broke.")])
def test_what_cannot_be_said_fails_and_can_be_resumed(tmp_path: Path, error: ChatterboxError) -> None:
    async def run() -> None:
        store = JobStore(tmp_path)
        voice = Voice(dict.fromkeys(range(3, 3 + job_runner._LIVES), error))
        runner = Runner(store, voice, 1)
        job = store.add(None, "Book", "flac", ASKED, PARTS)
        runner.wake()
        await until(store, job, "failed")
        found = store.get(job, None)
        assert (found.pieces_done, found.error) == (2, str(error))
        voice.calls += job_runner._LIVES
        store.change(job, ("failed",), "queued")
        runner.wake()
        await until(store, job, "done")
        assert set(voice.said.values()) == {1}
        await runner.stop()
        store.close()

    asyncio.run(run())


def test_a_pause_leaves_the_piece_and_a_cancel_the_job(tmp_path: Path) -> None:
    async def run() -> None:
        store = JobStore(tmp_path)
        voice = Voice()
        runner = Runner(store, voice, 1)
        paused, next_one = (store.add(None, "Book", "flac", ASKED, PARTS) for _ in range(2))
        voice.hold.clear()
        runner.wake()
        async with asyncio.timeout(WAIT_S):
            while not runner.works_on(paused):
                await asyncio.sleep(0.002)
        assert not runner.works_on(next_one)
        store.change(paused, ("queued",), "paused")
        voice.hold.set()
        await until(store, next_one, "done")
        assert store.status(paused) == "paused"
        store.change(paused, ("paused",), "cancelled")
        assert store.queued() == []
        runner.wake()
        async with asyncio.timeout(WAIT_S):
            while any(store._read("SELECT 1 FROM piece WHERE text IS NOT NULL OR sound IS NOT NULL")):
                await asyncio.sleep(0.01)
        await runner.stop()
        store.close()

    asyncio.run(run())
