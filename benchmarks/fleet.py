"""How many replicas a recorded load takes, by simulation: what the scaling policy comes to before there are any.

    python -m benchmarks.fleet calls.csv                      # columns at_s and lasts_s, seconds
    python -m benchmarks.fleet trace.csv --at TIMESTAMP --lasts GeneratedTokens --scale 0.3 --spike 5

Prints, for each cold start, who was refused, who stalled, and the replica-hours beside those of an oracle, which knows
the future; the last line is JSON. `benchmarks.fleet_simulation` says what a replica is taken to carry.
"""

import argparse
import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.fleet_simulation import STEP_S, Load, Outcome, Policy, Simulation, oracle_s
from deployments.scaling import Limits, ScalingPolicy

_LEAST_S, _MOST_S = 1.0, 600.0
"""What an utterance lasts: shorter ones are taken as the one, longer ones as the other."""


class BadLoad(ValueError):
    """A file that is not a recorded load."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one cold start came to."""

    cold_start_s: float
    refused: int
    outside: int
    """Of the refusals; see the function."""
    stalled: int
    replica_hours: float
    oracle_hours: float
    most: int

    @property
    def ratio(self) -> float:
        return self.replica_hours / self.oracle_hours


def read(path: Path, at: str = "at_s", lasts: str = "lasts_s", scale: float = 1.0) -> Load:
    """A CSV file with a header: when each utterance came, in seconds or as an ISO time, and how long it lasts.

    It ends with the last one's beginning. `scale` makes seconds of what `lasts` counts. Rows without a length (requests
    that failed) are left out. Raises BadLoad where a column is missing, a cell is no number or time, or nothing is
    left.
    """
    with path.open(newline="") as lines:
        rows = csv.DictReader(lines)
        missing = {at, lasts} - set(rows.fieldnames or ())
        if missing:
            raise BadLoad(f"{path} has no column {sorted(missing)}; it has {rows.fieldnames}. See --at and --lasts.")
        arrivals = sorted(_arrivals(rows, at, lasts, scale))
    if not arrivals:
        raise BadLoad(f"{path} has no utterance in it.")
    begin = arrivals[0][0]
    arrivals = [(second - begin, length) for second, length in arrivals]
    return Load(arrivals, arrivals[-1][0] + STEP_S)


def _arrivals(rows: "csv.DictReader[str]", at: str, lasts: str, scale: float) -> Iterator[tuple[float, float]]:
    for row in rows:
        try:
            length = scale * float(row[lasts])
            if length > 0:
                yield _second(row[at]), min(_MOST_S, max(_LEAST_S, length))
        except (ValueError, TypeError) as error:
            raise BadLoad(f"Line {rows.line_num}: {error}") from error


def _second(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return datetime.fromisoformat(cell).timestamp()


def spiked(load: Load, times: int, begin_s: float, length_s: float = 300.0, seed: int = 0) -> Load:
    """So many times the load from `begin_s` on: each utterance there comes again, up to 5 s before or after."""
    rng = random.Random(seed)
    spike = (begin_s, begin_s + length_s)
    more = [
        (min(spike[1], max(spike[0], at + rng.uniform(-5, 5))), lasts)
        for at, lasts in load.arrivals
        if spike[0] <= at < spike[1]
        for _ in range(times - 1)
    ]
    return Load(sorted(load.arrivals + more), load.length_s, spike)


def scaling(cold_start_s: float, most: int) -> Policy:
    """The service's own (`deployments/scaling.py`), from one replica up."""
    policy = ScalingPolicy(Limits(1, most, 300.0, cold_start_s))
    return lambda now, figures, ready, target: policy.decide(now, figures, ready, target).wanted


def outside(load: Load, outcome: Outcome, cold_start_s: float) -> int:
    """Refusals before the spike, or later than 60 s and a cold start after it began; without a spike, all."""
    if load.spike_s is None:
        return len(outcome.refused_at)
    begin = load.spike_s[0]
    return sum(not begin <= at <= begin + 60 + cold_start_s for at in outcome.refused_at)


def simulate(load: Load, cold_start_s: float, most: int, begin: int) -> Row:
    outcome = Simulation(load, scaling(cold_start_s, most), cold_start_s, begin).run()
    return Row(
        cold_start_s,
        refused=len(outcome.refused_at),
        outside=outside(load, outcome, cold_start_s),
        stalled=outcome.stalled,
        replica_hours=outcome.replica_s / 3600,
        oracle_hours=oracle_s(load, cold_start_s) / 3600,
        most=outcome.most,
    )


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| cold start | refused | of them outside of the spike's beginning | stalled | replica-hours | the oracle's "
        "| ratio | most at a time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.cold_start_s:g} s | {row.refused:,} | {row.outside:,} | {row.stalled:,} | {row.replica_hours:.1f} "
        f"| {row.oracle_hours:.1f} | {row.ratio:.2f} | {row.most} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", type=Path, help="CSV with a header")
    parser.add_argument("--at", default="at_s", help="column: when an utterance came (default: %(default)s)")
    parser.add_argument("--lasts", default="lasts_s", help="column: how long it lasts (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="seconds in one of those (default: %(default)s)")
    parser.add_argument("--spike", type=int, default=1, metavar="TIMES", help="the load for 5 minutes in its middle")
    parser.add_argument("--cold-start", type=float, action="append", metavar="S", help="default: 10, 30 and 90")
    parser.add_argument("--begin", type=int, default=2, help="replicas at first (default: %(default)s)")
    parser.add_argument("--most", type=int, default=200, help="replicas (default: %(default)s)")
    given = parser.parse_args()
    try:
        load = read(given.load, given.at, given.lasts, given.scale)
    except (BadLoad, OSError) as error:
        parser.error(str(error))
    if given.spike > 1:
        load = spiked(load, given.spike, load.length_s / 2)
    spoken = sum(lasts for _, lasts in load.arrivals)
    print(
        f"{len(load.arrivals):,} utterances in {load.length_s / 60:.0f} min, {spoken / load.length_s:.1f} at a time\n"
    )
    rows = [simulate(load, one, given.most, given.begin) for one in given.cold_start or (10.0, 30.0, 90.0)]
    print(table(rows), end="\n\n")
    print(json.dumps({"utterances": len(load.arrivals), "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
