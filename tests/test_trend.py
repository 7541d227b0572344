"""A trend finds the line through what it is told, and never one that falls or begins below 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.trend import Trend

PLACES = st.lists(st.integers(0, 1000), min_size=2, max_size=30, unique=True)


@given(PLACES, st.floats(0, 10), st.floats(0, 10))
def test_it_finds_a_line(places: list[int], begin: float, slope: float) -> None:
    trend = Trend()
    for x in places:
        trend.see(x, begin + slope * x)
    for x in (0, 500, 2000):
        assert trend(x) == pytest.approx(begin + slope * x, rel=1e-3, abs=1e-3 * (1 + begin + slope * x))


def test_what_is_new_counts_more() -> None:
    trend = Trend(keep=0.5)
    for _ in range(20):
        for x in (1, 2, 3):
            trend.see(x, 5.0 * x)
    for _ in range(20):
        for x in (1, 2, 3):
            trend.see(x, 1.0 * x)
    assert trend(10) == pytest.approx(10, rel=1e-3)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=20), st.floats(0, 200))
def test_it_says_nothing_negative_and_never_falls(seen: list[tuple[float, float]], x: float) -> None:
    trend = Trend()
    assert trend(x) == 0
    for place, value in seen:
        trend.see(place, value)
    assert 0 <= trend(x) <= trend(x + 1) + 1e-9


def test_one_place_tells_nothing_of_others() -> None:
    trend = Trend()
    trend.see(4, 0.5)
    trend.see(4, 0.7)
    assert trend(1) == trend(400) == pytest.approx(0.6, abs=0.01)
