"""Workers: a step that fails or hangs is seen from outside, and ends no stream in silence."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from chatterbox_engine.errors import EngineDead
from chatterbox_engine.worker import Worker


class Hand(Worker):
    """Does what it is told, step by step."""

    def __init__(self, step: Callable[[], bool], **where: Any) -> None:
        super().__init__("test", **where)
        self._step = step
        self.errors: list[BaseException] = []
        self.failed = threading.Event()

    def step(self) -> bool:
        return self._step()

    def fail_all(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed.set()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, so that no thread hangs."""
    event = threading.Event()
    yield event
    event.set()


def test_a_failing_step_ends_the_thread_and_every_stream(caplog: pytest.LogCaptureFixture) -> None:
    def step() -> bool:
        raise ValueError("no memory")

    worker = Hand(step)
    worker.check_alive()  # not started yet
    worker.start()
    assert worker.failed.wait(10)
    (error,) = worker.errors
    assert isinstance(error, EngineDead)
    assert "test" in str(error)
    assert "no memory" in str(error)
    with pytest.raises(EngineDead, match="no memory"):
        worker.check_alive()
    assert "ValueError" in caplog.text
    worker.stop()
    assert len(worker.errors) == 1


def test_a_hanging_step_is_seen(gate: threading.Event) -> None:
    worker = Hand(lambda: not gate.wait(30))
    worker.start()
    time.sleep(0.15)
    worker.check_alive(stalled_s=30)
    with pytest.raises(EngineDead, match=r"one step for over 0\.1 s"):
        worker.check_alive(stalled_s=0.1)
    gate.set()
    time.sleep(0.15)
    worker.check_alive(stalled_s=0.12)  # an idle worker is not stalled
    worker.stop()


def test_stopping_twice_and_from_its_own_thread() -> None:
    worker = Hand(lambda: False)
    worker.start()
    worker.stop()
    worker.stop()
    assert [str(error) for error in worker.errors] == ["The test engine has ended: it was stopped."]
    with pytest.raises(EngineDead, match="it was stopped"):
        worker.check_alive()

    def stop_itself() -> bool:
        own.stop()
        return True

    own = Hand(stop_itself)
    own.start()
    assert own.failed.wait(10)


def test_a_worker_that_is_ending_is_dead_before_its_streams_are_failed() -> None:
    """Otherwise work accepted in between would never be answered."""
    seen: list[str] = []

    class Ending(Hand):
        def fail_all(self, error: BaseException) -> None:
            try:
                self.check_alive()
            except EngineDead as dead:
                seen.append(str(dead))
            super().fail_all(error)

    worker = Ending(lambda: False)
    worker.start()
    worker.stop()
    assert seen == ["The test engine has ended: it was stopped."]


def test_only_steps_that_work_count_as_busy() -> None:
    work = [True, False, True, True]

    def step() -> bool:
        time.sleep(0.02)
        return work.pop() if work else False

    worker = Hand(step)
    worker.start()
    end = time.monotonic() + 10
    while work and time.monotonic() < end:
        worker.wake()
        time.sleep(0.005)
    time.sleep(0.2)
    assert worker.steps == 3
    assert 3 * 0.02 <= worker.busy_seconds < 0.2
    worker.stop()


def test_waking_is_quicker_than_polling(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_POLL_S", 30.0)
    steps = threading.Semaphore(0)
    worker = Hand(lambda: bool(steps.release()))
    worker.start()
    assert steps.acquire(timeout=10)
    worker.wake()
    assert steps.acquire(timeout=10)
    worker.stop()
    assert worker.failed.is_set()


def test_a_step_takes_a_fixed_time_where_it_is_told_to() -> None:
    """What it does not need of it is slept; a look that finds nothing to do takes none."""
    steps = iter([True, True])
    worker = Hand(lambda: next(steps, False))
    worker.takes_s = 0.05
    worker.start()
    end = time.monotonic() + 10
    while worker.busy_seconds < 0.1 and time.monotonic() < end:
        time.sleep(0.001)
    worker.stop()
    assert (worker.steps, worker.busy_seconds >= 0.1) == (2, True)


@pytest.mark.parametrize("urgent", [False, True])
def test_on_a_gpu_it_steps_on_a_stream_of_its_own(urgent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which begins after what was computed before, and is left at the end."""
    told: list[str] = []

    class Stream:
        def __init__(self, device: torch.device, priority: int) -> None:
            told.append(f"made for {device}, {priority}")

        def wait_stream(self, other: str) -> None:
            told.append(f"waits for {other}")

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        told.append("entered")
        yield
        told.append("left")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"the default one of {device}")
    monkeypatch.setattr(torch.cuda, "stream", entered)
    stepped = threading.Event()

    def step() -> bool:
        if not stepped.is_set():
            told.append("step")
        stepped.set()
        return False

    worker = Hand(step, device=torch.device("cuda:1"), urgent=urgent)
    worker.start()
    assert stepped.wait(10)
    worker.stop()
    priority = -1 if urgent else 0
    expected = [f"made for cuda:1, {priority}", "waits for the default one of cuda:1", "entered", "step", "left"]
    assert told == expected
