"""A stream's outbox: filled by an engine's thread, read by one reader, from a thread or from an event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from chatterbox_engine.errors import EngineDead

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Items in order, then an end or an error. The writer asks `full` before it makes more: that is the bound.

    `on_read` is called, on the reader's thread, when the writer may go on: the reader waits for more, has taken items,
    or has closed the mailbox.
    """

    def __init__(self, on_read: Callable[[], None]) -> None:
        self._on_read = on_read
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._wanted = 0
        """Items that the reader waits for now."""
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    @property
    def unread(self) -> int:
        return len(self._items)

    def full(self, limit: int) -> bool:
        """The reader is `limit` items behind, and has those that it waits for."""
        return len(self._items) >= max(limit, self._wanted)

    @property
    def closed(self) -> bool:
        """The reader is gone."""
        return self._closed

    def put(self, items: Iterable[Item] = (), *, final: bool = False) -> None:
        """Add items; `final` ends the stream. Called by the writer."""
        with self._changed:
            if not self._closed:
                self._items.extend(items)
            self._ended = self._ended or final
            self._wake_reader()

    def fail(self, error: BaseException) -> None:
        """End the stream with an error, which the reader gets after the items before it."""
        with self._changed:
            if not self._ended:
                self._error, self._ended = error, True
            self._wake_reader()

    def close(self) -> None:
        """The reader wants no more. Safe to call more than once."""
        with self._changed:
            already, self._closed = self._closed, True
            self._items.clear()
            self._wake_reader()
        if not already:
            self._on_read()

    def read(
        self, count: int = 1, timeout: float | None = None, progress: Callable[[], object] = lambda: None
    ) -> tuple[list[Item], bool]:
        """Wait for `count` items or the end; returns at most `count` items, and whether the stream ends with them.

        Raises the writer's error, or EngineDead after `timeout` seconds in which nothing came, and in which `progress`,
        which says how far others are whom the writer waits for, stayed the same.
        """
        with self._changed:
            self._wanted = count
            if not self._ready():
                self._on_read()  # a writer who waited since the mailbox was full may go on
            try:
                seen = len(self._items), progress()
                while not self._changed.wait_for(self._ready, timeout):
                    before, seen = seen, (len(self._items), progress())
                    if seen == before:
                        raise EngineDead("The engine gave no answer in time.")
                taken = self._take(count)
            finally:
                self._wanted = 0
        self._on_read()
        return taken

    async def aread(self, count: int = 1) -> tuple[list[Item], bool]:
        """`read` for an event loop."""
        try:
            while True:
                with self._changed:
                    self._wanted = count
                    if self._ready():
                        taken = self._take(count)
                        break
                    self._on_read()
                    loop = asyncio.get_running_loop()
                    future: asyncio.Future[None] = loop.create_future()
                    self._waiter = (loop, future)
                await future
        finally:
            self._wanted = 0
        self._on_read()
        return taken

    def _ready(self) -> bool:
        return self._ended or self._closed or len(self._items) >= self._wanted

    def _take(self, count: int) -> tuple[list[Item], bool]:
        taken, self._items = self._items[:count], self._items[count:]
        if not taken and self._error is not None:
            raise self._error
        return taken, (self._ended and not self._items and self._error is None) or self._closed

    def _wake_reader(self) -> None:
        """With the lock held: wake the reader if what it waits for is there, and only then."""
        if not self._ready():
            return
        self._changed.notify_all()
        if self._waiter is not None:
            (loop, future), self._waiter = self._waiter, None
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its reader gone
                loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
