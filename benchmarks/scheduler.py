"""python -m benchmarks scheduler: Python's share of a T3 step, with no model behind it.

The scheduler is driven as the engine drives it, by streams that a fake model moves on: every step admits, prefills,
lists the rows to decode, and takes out those that end, for whom others come.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from tqdm import trange

from benchmarks import conditions, subject
from benchmarks.report import Column, Report, number
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.t3.scheduler import Scheduler, Sequence

_PROMPT = 120
"""Positions of a prompt."""
_SHORTEST, _LENGTHS = 300, 700
"""Tokens of the shortest stream, and how many lengths there are above it: 12 to 40 s of audio."""

COLUMNS = (
    Column("what", "the scheduler alone"),
    Column("median_s", "median, ms a step", lambda value: number(1e3 * value)),
    Column("mean_s", "mean", lambda value: number(1e3 * value)),
    Column("p99_s", "p99", lambda value: number(1e3 * value)),
    Column("max_s", "worst", lambda value: number(1e3 * value)),
)


class FakeEngine:
    """The engine's loop with everything taken out that is not scheduling."""

    def __init__(self, streams: int, prefill_positions: int) -> None:
        self._scheduler = Scheduler(streams, prefill_positions, max_waiting=2 * streams)
        self._made = 0
        self._lengths: dict[Sequence, int] = {}
        self.decoded = 0
        for _ in range(streams):
            self._arrive()

    def step(self) -> float:
        """Seconds that scheduling one step took; the fake model's own part is not counted."""
        scheduler = self._scheduler
        begin = time.perf_counter()
        scheduler.admit()
        decoding = [sequence for sequence in scheduler.running if not sequence.prefilling]
        plan = scheduler.prefill()
        lengths = {sequence.length for sequence in scheduler.running}
        slots = [sequence.slot for sequence in scheduler.owners]
        spent = time.perf_counter() - begin

        assert lengths
        assert len(slots) == scheduler.rows
        for sequence, count in plan:
            sequence.prefilled += count
            sequence.steps += not sequence.prefilling
        for sequence in decoding:
            sequence.steps += 1
        ended = [sequence for sequence in decoding if sequence.steps >= self._lengths[sequence]]
        self.decoded = len(decoding)

        begin = time.perf_counter()
        for sequence in ended:
            scheduler.release(sequence)
        spent += time.perf_counter() - begin
        for sequence in ended:
            del self._lengths[sequence]
            self._arrive()
        return spent

    def _arrive(self) -> None:
        sequence = Sequence(2, _PROMPT)
        self._lengths[sequence] = _SHORTEST + self._made * 7919 % _LENGTHS
        self._made += 1
        self._scheduler.submit(sequence)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=subject.RESULTS)
    parser.add_argument("--date")


def run(options: argparse.Namespace) -> None:
    """Measure once all streams have come to decoding, and report."""
    config = EngineConfig.profile("throughput")
    given = subject.Subject("none", torch.device("cpu"), "throughput", (), config)
    engine = FakeEngine(options.streams, config.t3.prefill_positions)
    for _ in trange(2 * _SHORTEST, desc="Warming up", disable=None):
        engine.step()
    taken, decoded = [], []
    for _ in trange(options.steps, desc="Scheduling", disable=None):
        taken.append(engine.step())
        decoded.append(engine.decoded)
    ordered = sorted(taken)
    row = {
        "what": f"{options.streams:,} streams with CFG, {statistics.mean(decoded):.0f} of them decoding",
        "median_s": statistics.median(taken),
        "mean_s": statistics.mean(taken),
        "p99_s": ordered[round(0.99 * (len(ordered) - 1))],
        "max_s": ordered[-1],
    }
    told = conditions.gather(given, 1, options.date, steps=options.steps)
    Report("scheduler", told, COLUMNS, [row], {"step_s": taken}).emit(options.output)
