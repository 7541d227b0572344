"""Mailboxes: nothing is lost or reordered, readers wait for what they asked for, and writers can see when to stop."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.errors import EngineDead
from chatterbox_engine.mailbox import Mailbox

LIMIT_S = 20.0


def nothing() -> None:
    pass


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


batches = st.lists(st.lists(st.integers(), max_size=7), max_size=12)
counts = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def write(box: Mailbox[int], given_batches: list[list[int]], error: BaseException | None) -> None:
    for batch in given_batches:
        box.put(batch)
    if error is None:
        box.put(final=True)
    else:
        box.fail(error)


def checked(read: list[int], final: bool, count: int) -> None:
    assert len(read) == count or (len(read) < count and final)


@given(given_batches=batches, wanted=counts)
@settings(max_examples=60)
def test_a_thread_reads_all_in_order_in_the_sizes_it_asks_for(
    given_batches: list[list[int]], wanted: list[int]
) -> None:
    box: Mailbox[int] = Mailbox(nothing)
    writer = in_thread(lambda: write(box, given_batches, None))
    got: list[int] = []
    final, turn = False, 0
    while not final:
        count = wanted[turn % len(wanted)]
        read, final = box.read(count, timeout=LIMIT_S)
        checked(read, final, count)
        got += read
        turn += 1
    writer.join()
    assert got == [item for batch in given_batches for item in batch]
    assert box.read(3, timeout=LIMIT_S) == ([], True)  # the end stays


@given(given_batches=batches, wanted=counts)
@settings(max_examples=60)
def test_an_event_loop_reads_what_a_thread_writes(given_batches: list[list[int]], wanted: list[int]) -> None:
    box: Mailbox[int] = Mailbox(nothing)

    async def read_all() -> list[int]:
        got: list[int] = []
        final, turn = False, 0
        while not final:
            count = wanted[turn % len(wanted)]
            read, final = await asyncio.wait_for(box.aread(count), LIMIT_S)
            checked(read, final, count)
            got += read
            turn += 1
        return got

    writer = in_thread(lambda: write(box, given_batches, None))
    assert asyncio.run(read_all()) == [item for batch in given_batches for item in batch]
    writer.join()


@given(given_batches=batches, count=st.integers(1, 9))
@settings(max_examples=60)
def test_an_error_comes_after_the_items_before_it_and_stays(given_batches: list[list[int]], count: int) -> None:
    box: Mailbox[int] = Mailbox(nothing)
    write(box, given_batches, ValueError("broken"))
    items = [item for batch in given_batches for item in batch]
    got: list[int] = []
    while len(got) < len(items):
        read, final = box.read(count, timeout=LIMIT_S)
        assert not final
        got += read
    assert got == items
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            box.read(count, timeout=LIMIT_S)


def test_an_end_is_not_turned_into_an_error() -> None:
    box: Mailbox[int] = Mailbox(nothing)
    box.put([1], final=True)
    box.fail(ValueError())
    assert box.read(2) == ([1], True)


def test_read_waits_for_the_count_and_wakes_for_nothing_less() -> None:
    box: Mailbox[int] = Mailbox(nothing)
    got: list[tuple[list[int], bool]] = []
    reader = in_thread(lambda: got.append(box.read(3, timeout=LIMIT_S)))
    wait_for(lambda: not box.full(0))
    box.put([1, 2])
    time.sleep(0.05)
    assert not got
    box.put([3, 4])
    reader.join(LIMIT_S)
    assert got == [([1, 2, 3], False)]
    assert box.unread == 1


def test_a_reader_waits_as_long_as_something_comes() -> None:
    """Many times its limit in all."""
    box: Mailbox[int] = Mailbox(nothing)
    far: list[int] = []

    def write_slowly() -> None:
        for number in range(15):
            time.sleep(0.1)
            box.put([number])
        for number in range(15):  # whoever the writer waits for
            time.sleep(0.1)
            far.append(number)
        box.put([15])

    writer = in_thread(write_slowly)
    assert box.read(15, timeout=0.5)[0] == list(range(15))
    assert box.read(1, timeout=0.5, progress=lambda: len(far))[0] == [15]
    writer.join(LIMIT_S)
    with pytest.raises(EngineDead):
        box.read(1, timeout=0.05, progress=lambda: len(far))


def test_close_wakes_the_reader_and_frees() -> None:
    calls: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: calls.append(1))
    got: list[tuple[list[int], bool]] = []
    reader = in_thread(lambda: got.append(box.read(5, timeout=LIMIT_S)))
    wait_for(lambda: not box.full(0))
    box.put([1, 2])
    box.close()
    reader.join(LIMIT_S)
    assert got == [([], True)]
    assert box.closed
    wait_for(lambda: len(calls) == 3)  # as the reader began to wait, for the close, and for the read that it ended
    box.close()
    box.put([3, 4])  # the writer has not seen it yet
    assert len(calls) == 3
    assert box.unread == 0
    assert box.read() == ([], True)


def test_every_read_tells_the_writer() -> None:
    calls: list[int] = []
    box: Mailbox[int] = Mailbox(lambda: calls.append(box.unread))
    box.put([1, 2, 3])
    box.read(2)
    asyncio.run(box.aread())
    assert calls == [1, 0]


@given(limit=st.integers(1, 5), count=st.integers(1, 20), total=st.integers(0, 40))
@settings(max_examples=40)
def test_a_writer_that_heeds_full_neither_deadlocks_nor_runs_ahead(limit: int, count: int, total: int) -> None:
    """Even where the reader waits for more items than the limit."""
    room = threading.Event()
    box: Mailbox[int] = Mailbox(room.set)
    most = 0

    def work() -> None:
        nonlocal most
        for item in range(total):
            while box.full(limit):
                room.wait(0.002)  # a worker polls
                room.clear()
            box.put([item])
            most = max(most, box.unread)
        box.put(final=True)

    writer = in_thread(work)
    got: list[int] = []
    final = False
    while not final:
        read, final = box.read(count, timeout=LIMIT_S)
        got += read
    writer.join(LIMIT_S)
    assert got == list(range(total))
    assert most <= max(limit, count)


def test_a_read_that_gave_up_no_longer_asks_for_more() -> None:
    box: Mailbox[int] = Mailbox(nothing)
    box.put([1, 2])
    begin = time.monotonic()
    with pytest.raises(EngineDead, match="in time"):
        box.read(3, timeout=0.05)
    assert 0.04 < time.monotonic() - begin < 5.0
    assert box.full(2)
    assert box.read(2, timeout=0.05) == ([1, 2], False)


def test_a_cancelled_aread_loses_nothing_and_no_longer_asks_for_more() -> None:
    box: Mailbox[int] = Mailbox(nothing)

    async def run() -> None:
        task = asyncio.create_task(box.aread(3))
        await asyncio.sleep(0.01)
        assert not box.full(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        box.put([1, 2])
        assert box.full(2)
        box.put([3])  # wakes a reader who is gone
        assert await asyncio.wait_for(box.aread(3), LIMIT_S) == ([1, 2, 3], False)

    asyncio.run(run())


def test_a_writer_outlives_its_readers_event_loop() -> None:
    box: Mailbox[int] = Mailbox(nothing)
    loop = asyncio.new_event_loop()
    task = loop.create_task(box.aread(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    box.put([1])
    assert box.unread == 1
    del task
