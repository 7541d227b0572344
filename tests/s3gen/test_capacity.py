"""Admission by what has been seen: nobody is refused without a reason, nobody let in who would make others stall."""

import numpy as np

from chatterbox_engine.s3gen.capacity import Capacity
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.types import SAMPLE_RATE
from tests.s3gen.test_scheduler import Clock, opened

EASY = 10.0
"""Seconds to spare."""


def seen(capacity: Capacity, clock: Clock, count: int, pace: float, seconds: float = 20.0) -> list[SpeechStream]:
    """`count` streams, each of which gets a second of audio every `pace` seconds."""
    streams = [opened(clock) for _ in range(count)]
    for _ in range(round(seconds / pace)):
        capacity.observe(clock.now, streams, 0, EASY, 0.01)
        clock.now += pace
        capacity.observe(clock.now, streams, count * SAMPLE_RATE, EASY, 0.01)
    return streams


def test_before_any_load_all_are_let_in() -> None:
    clock, capacity = Clock(), Capacity(8)
    assert capacity.admits(clock.now, [])
    assert capacity.admits(clock.now, [opened(clock) for _ in range(100)])


def test_the_line_through_what_was_seen_says_how_many() -> None:
    clock, capacity = Clock(), Capacity(8)
    seen(capacity, clock, 2, 0.2)
    streams = seen(capacity, clock, 6, 0.6)
    assert capacity.admits(clock.now, streams[:6])
    assert capacity.admits(clock.now, [*streams, opened(clock)])
    more = [*streams, *(opened(clock) for _ in range(6))]
    assert not capacity.admits(clock.now, more)
    assert capacity.admits(clock.now, [])
    assert capacity.carries() == 8  # at 0.8 s for a second of each


def test_how_many_it_carries_is_told_only_where_it_is_known() -> None:
    clock, capacity = Clock(), Capacity(8)
    assert capacity.carries() is None
    seen(capacity, clock, 1, 1.5)
    seen(capacity, clock, 2, 3.0)
    assert capacity.carries() is None  # not even one


def test_a_listener_who_has_run_dry_keeps_others_out() -> None:
    clock, capacity = Clock(), Capacity(8)
    playing = opened(clock, heard_s=1.0)
    assert capacity.admits(clock.now, [playing])
    clock.now += 1.5
    assert not capacity.admits(clock.now, [playing])
    assert capacity.admits(clock.now, [opened(clock, heard_s=0.5, paced=False)])


def test_no_time_to_spare_keeps_others_out() -> None:
    clock, capacity = Clock(), Capacity(8)
    streams = [opened(clock, heard_s=5.0)]
    capacity.observe(clock.now, streams, SAMPLE_RATE, 0.2, 0.01)
    assert not capacity.admits(clock.now, streams)
    capacity.observe(clock.now, streams, SAMPLE_RATE, 2.0, 0.01)
    assert capacity.admits(clock.now, streams)


def test_so_many_come_at_once_as_can_be_served_at_once() -> None:
    clock, capacity = Clock(), Capacity(8)
    for seconds in (3.0, 0.1, 0.1):  # the first call of all is slow
        capacity.observe(clock.now, [], 0, EASY, seconds)
    assert capacity.admits(clock.now, [opened(clock) for _ in range(7)])
    assert not capacity.admits(clock.now, [opened(clock) for _ in range(8)])
    assert capacity.admits(clock.now, [opened(clock, heard_s=5.0) for _ in range(5)])
    for _ in range(20):
        capacity.observe(clock.now, [], 0, EASY, 30.0)
    assert capacity.admits(clock.now, [])


def test_idle_time_is_no_streams_time() -> None:
    clock, capacity = Clock(), Capacity(8)
    streams = seen(capacity, clock, 2, 0.2)
    for stream in streams:
        stream.audio.close()  # in the middle
    clock.now += 3600
    assert capacity.admits(clock.now, streams)
    streams = seen(capacity, clock, 2, 0.2)
    assert capacity.admits(clock.now, streams)
    seen(capacity, clock, 8, 0.7)
    assert not capacity.admits(clock.now, [opened(clock) for _ in range(12)])


def test_whose_listeners_are_behind_do_not_count() -> None:
    clock, capacity = Clock(), Capacity(2)
    unread = opened(clock, heard_s=0.5)
    for _ in range(2):
        unread.emit(np.zeros(100, np.float32), final=False)
    clock.now += 5
    assert capacity.admits(clock.now, [unread])
    assert capacity.admits(clock.now, [opened(clock, heard_s=60.0)])


def test_a_machine_on_which_one_stream_stalls_refuses_nobody() -> None:
    clock, capacity = Clock(), Capacity(8)
    streams = seen(capacity, clock, 1, 2.0)
    seen(capacity, clock, 2, 4.0)
    clock.now += 10
    assert capacity.admits(clock.now, streams)
