"""Recorded loads: read, made heavier, and what the scaling policy comes to with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fleet import BadLoad, read, simulate, spiked
from benchmarks.fleet_simulation import Load

TIMES = ("2026-11-16 18:15:46.6805900", "2026-11-16 18:15:50.9951690", "2026-11-16 18:15:47")


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_seconds_and_times_of_day_are_read_in_order_from_the_first_on(tmp_path: Path) -> None:
    plain = read(written(tmp_path / "a.csv", "lasts_s,voice,at_s", "2,x,13.5", "700,x,10", "0,x,11", "0.2,x,12"))
    assert plain.arrivals == [(0.0, 600.0), (2.0, 1.0), (3.5, 2.0)]  # at most 10 min, at least 1 s; what failed is out
    assert plain.length_s == 4.0
    lines = (f"{time},{tokens}" for time, tokens in zip(TIMES, (44, 109, 10), strict=True))
    trace = read(written(tmp_path / "b.csv", "TIMESTAMP,Tokens", *lines), "TIMESTAMP", "Tokens", 0.3)
    assert [at for at, _ in trace.arrivals] == pytest.approx([0, 0.31941, 4.314579])
    assert [lasts for _, lasts in trace.arrivals] == pytest.approx([13.2, 3.0, 32.7])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("at,lasts_s", "1,2"), r"no column \['at_s'\]"),
        (("at_s,lasts_s",), "no utterance"),
        (("at_s,lasts_s", "1,0"), "no utterance"),
        (("at_s,lasts_s", "1,2", "2,long"), "Line 3: could not convert string to float: 'long'"),
        (("at_s,lasts_s", "yesterday,2"), "Line 2: Invalid isoformat"),
        (("at_s,lasts_s", "1"), "Line 2: "),
        ((), "no column"),
    ],
)
def test_what_is_no_load_is_refused(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadLoad, match=said):
        read(written(tmp_path / "bad.csv", *lines))


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.floats(1, 60)), min_size=1, max_size=50),
    st.integers(2, 6),
    st.floats(0, 900),
)
def test_a_spike_is_so_many_times_the_load_and_leaves_the_rest(
    arrivals: list[tuple[float, float]], times: int, begin_s: float
) -> None:
    load = Load(sorted(arrivals), 1060.0)
    heavier = spiked(load, times, begin_s, 100.0)
    assert heavier.spike_s == (begin_s, begin_s + 100)
    assert heavier.arrivals == sorted(heavier.arrivals)

    def within(one: Load) -> list[float]:
        return sorted(lasts for at, lasts in one.arrivals if begin_s <= at <= begin_s + 100)

    inside = [lasts for at, lasts in load.arrivals if begin_s <= at < begin_s + 100]
    assert len(heavier.arrivals) == len(load.arrivals) + (times - 1) * len(inside)
    assert len(within(heavier)) >= times * len(inside)
    assert set(load.arrivals) <= set(heavier.arrivals)


def test_long_utterances_take_no_more_replicas_than_their_spike_will_need() -> None:
    """Two utterances a second of 60 s each, 10 a second for 5 minutes: not the 50 replicas of one that goes on."""
    load = spiked(Load([(n / 2, 60.0) for n in range(2400)], 1200.0), 5, 600.0)
    row = simulate(load, cold_start_s=30.0, most=200, begin=12)
    assert 0 < row.refused < 0.1 * len(load.arrivals)
    assert row.stalled == 0
    assert row.ratio < 1.45
    assert row.most < 85


def test_the_command(tmp_path: Path) -> None:
    path = written(tmp_path / "calls.csv", "at_s,lasts_s", *(f"{n},10" for n in range(600)))
    command = [sys.executable, "-m", "benchmarks.fleet", str(path), "--cold-start", "10", "--spike", "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["utterances"] > 600
    (row,) = told["rows"]
    assert f"| {row['cold_start_s']:g} s | {row['refused']:,} |" in run.stdout
    assert row["replica_hours"] > row["oracle_hours"] > 0
    wrong = subprocess.run([*command, "--lasts", "tokens"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "no column ['tokens']" in wrong.stderr
