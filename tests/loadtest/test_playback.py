"""The player's clock: when it would stall, for how long, and when it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.playback import PCM_BYTES_PER_SECOND, Playback

RATE = 100
"""Bytes a second of these tests: easy to count with."""
PIECES = st.lists(st.tuples(st.integers(1, 500), st.floats(0, 10)), min_size=1, max_size=40)
"""Sizes, and seconds since the piece before."""


def played(pieces: list[tuple[int, float]], begin: float = 0.0) -> Playback:
    playback, now = Playback(begin, RATE), begin
    for size, gap in pieces:
        now += gap
        playback.received(size, now)
    return playback


def test_on_time_all_through() -> None:
    playback = played([(100, 2.0), (100, 0.5), (100, 1.0)], begin=5.0)
    assert (playback.begin, playback.first_at, playback.last_at, playback.ends_at) == (5.0, 7.0, 8.5, 10.0)
    assert (playback.stalls, playback.stall_seconds) == (0, 0.0)
    assert playback.seconds == 3.0
    assert playback.real_time_factor == 3.5 / 3.0


def test_late_once() -> None:
    playback = played([(100, 0.0), (100, 1.25), (100, 0.5)])
    assert (playback.stalls, playback.stall_seconds) == (1, 0.25)
    assert playback.ends_at == 3.25


def test_just_in_time_is_no_stall() -> None:
    assert played([(100, 0.5), (100, 1.0)]).stalls == 0


def test_nothing_came() -> None:
    playback = played([], begin=3.0)
    assert (playback.first_at, playback.ends_at, playback.bytes, playback.stalls) == (None, 3.0, 0, 0)


def test_the_rate_is_that_of_the_service() -> None:
    playback = Playback(0.0)
    playback.received(2 * PCM_BYTES_PER_SECOND, 1.0)
    assert (playback.seconds, playback.ends_at) == (2.0, 3.0)


@given(PIECES)
def test_playback_is_audio_plus_stalls(pieces: list[tuple[int, float]]) -> None:
    playback = played(pieces)
    assert playback.bytes == sum(size for size, _ in pieces)
    assert playback.first_at is not None
    length = playback.ends_at - playback.first_at
    assert length == pytest.approx(playback.seconds + playback.stall_seconds, abs=1e-6)
    assert (playback.stalls == 0) == (playback.stall_seconds == 0.0)


@given(PIECES)
def test_agrees_with_a_player_that_buffers(pieces: list[tuple[int, float]]) -> None:
    """The same by another way: a buffer that drains at the rate, and is empty while playback stalls."""
    (size, _), *rest = pieces
    buffer, stall = float(size), 0.0
    for size, gap in rest:
        dry = max(0.0, gap - buffer / RATE)
        stall += dry
        buffer += size - (gap - dry) * RATE
    assert played(pieces).stall_seconds == pytest.approx(stall, abs=1e-6)


@given(PIECES)
def test_empty_pieces_count_for_nothing(pieces: list[tuple[int, float]]) -> None:
    with_empty = [piece for size, gap in pieces for piece in ((0, gap), (size, 0.0))]
    assert vars(played(with_empty)) == vars(played(pieces))


@given(PIECES, st.floats(0, 5))
def test_a_later_start_of_the_same_stream_changes_nothing_but_the_times(
    pieces: list[tuple[int, float]], delay: float
) -> None:
    early, late = played(pieces), played([(0, delay), *pieces])
    assert late.stall_seconds == pytest.approx(early.stall_seconds, abs=1e-6)
    assert late.bytes == early.bytes


@given(PIECES, st.integers(1, 500))
def test_a_fuller_first_piece_never_stalls_more(pieces: list[tuple[int, float]], more: int) -> None:
    (size, gap), *rest = pieces
    base, fuller = played(pieces), played([(size + more, gap), *rest])
    assert fuller.stall_seconds <= base.stall_seconds + 1e-6
    assert fuller.stalls <= base.stalls
