"""The loop of an engine: one thread that steps while there is work and sleeps while there is none."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch

from chatterbox_engine.accel.memory import exhausted
from chatterbox_engine.errors import ChatterboxError, EngineDead, Overloaded, SpeechFailed, reason

logger = logging.getLogger(__name__)


class Worker(ABC):
    """Runs `step` on a thread of its own. What `step` touches, only that thread touches."""

    _POLL_S = 0.05
    """A sleeping worker looks this often for work that comes due by the clock."""
    _FAILURES = 8
    """Calls that may fail one after the other; then it is the engine that has failed."""

    def __init__(
        self, name: str, idle_s: float | None = None, device: torch.device | None = None, *, urgent: bool = False
    ) -> None:
        """`idle_s`: seconds without work after which the worker rests. None: never. `device`: where it computes, on a
        stream of its own, so that two workers of one GPU need not wait for each other; `urgent`: its work goes first
        there."""
        self._name = name
        self._idle_s = idle_s
        self._device = device
        self._urgent = urgent
        self.resting = False
        self.takes_s = 0.0
        """A step that works takes so long at least: the rest of it is slept."""
        self._wake = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._ended = False
        self.failed = 0
        """Calls that have failed since one went well."""
        self.busy_seconds = 0.0
        """Time spent in steps that did work."""
        self.steps = 0
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def step(self) -> bool:
        """Do the next bit of work; False if there was none."""

    def has_work(self) -> bool:
        """Whether there is any, running or waiting. A worker that may rest says so."""
        return True

    def rest(self) -> None:  # noqa: B027 (what a worker need not do)
        """Give the device's memory back: nobody has asked for anything in a while."""

    def resume(self) -> None:  # noqa: B027
        """Take it again: there is work."""

    @abstractmethod
    def fail_all(self, error: BaseException) -> None:
        """End every stream with `error`: the thread is about to end."""

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread and every stream. Safe to call twice."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def check_alive(self, stalled_s: float = 600.0) -> None:
        """Raises EngineDead if the thread is ending, or has been in one step for `stalled_s` seconds.

        Whoever hands `step` new work calls it with the lock held that `fail_all` takes: the work is failed or refused.
        """
        if self._ended:
            raise self._end()
        if self._thread.is_alive() and time.monotonic() - self._beat > stalled_s:
            raise EngineDead(f"The {self._name} engine has been in one step for over {stalled_s:g} s.")

    def outlived(self, error: Exception, streams: int) -> ChatterboxError:
        """What the streams of a call that failed end with, so that the others go on.

        Raises `error` where nothing can go on: the device is lost, or calls fail one after the other.
        """
        self.failed += 1
        if isinstance(error, torch.AcceleratorError) or self.failed >= self._FAILURES:
            raise error
        if exhausted(error):
            logger.error("%s has no memory for a call of %d streams, which end: %s", self._name, streams, reason(error))
            return Overloaded(why="The device has no memory for this stream.")
        logger.error("A call of %s failed; its %d streams end, others go on", self._name, streams, exc_info=error)
        return SpeechFailed(reason(error))

    def went_well(self) -> None:
        """A call did not fail; see `outlived`."""
        self.failed = 0

    def _run(self) -> None:
        try:
            with torch.inference_mode(), self._own_stream():
                worked = time.monotonic()
                while not self._stopping:
                    self._beat = begin = time.monotonic()
                    self._wake.clear()
                    if self.resting and self.has_work():
                        self.resume()
                        self.resting = False
                    if not self.resting and self.step():
                        self.steps += 1
                        time.sleep(max(0.0, begin + self.takes_s - time.monotonic()))
                        worked = time.monotonic()
                        self.busy_seconds += worked - begin
                        continue
                    idle = self._idle_s is not None and not self.resting and begin - worked > self._idle_s
                    if idle and not self.has_work():
                        logger.info("The %s engine rests after %g s without work", self._name, self._idle_s)
                        self.rest()
                        self.resting = True
                    self._wake.wait(self._POLL_S)
        except BaseException as error:
            self._failure = error
            logger.exception("The %s engine has ended", self._name)
        self._ended = True
        self.fail_all(self._end())

    def _own_stream(self) -> AbstractContextManager[object]:
        """Begins after what was computed for the worker before it: its weights, and what it captured."""
        if self._device is None or self._device.type != "cuda":
            return nullcontext()
        stream = torch.cuda.Stream(self._device, priority=-1 if self._urgent else 0)
        stream.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(stream)

    def _end(self) -> EngineDead:
        return EngineDead(f"The {self._name} engine has ended: {self._failure or 'it was stopped'}.")
