"""What `ab` has measured so far: in its file after every variant, and where a later run goes on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import render
from benchmarks.ab_variants import Variant
from benchmarks.report import Report, Row, load
from chatterbox_engine.errors import InvalidRequest

_MAY_DIFFER = ("date", "commit", "dirty", "load_at_start")
"""Conditions of which a later run may have others: each row has its own date and commit."""


class Record:
    """The rows, in the order of the variants, and their rounds."""

    def __init__(self, name: str, conditions: dict[str, Any], variants: Sequence[Variant], folder: Path) -> None:
        self._folder = folder
        self._order = {variant.key: index for index, variant in enumerate(variants)}
        self.report = Report(name, conditions, render.COLUMNS, [], {}, shown=render.shown)

    def resume(self) -> None:
        """Go on with the file, if there is one. Raises InvalidRequest where its conditions are not these."""
        path = self._folder / f"{self.report.name}.json"
        if not path.exists():
            return
        before = load(path)
        differing = _differing(before["conditions"], self.report.conditions)
        if differing:
            raise InvalidRequest(
                f"{path} was measured under other conditions: {differing}. Go on under the same, or start without "
                "--resume.", "resume",
            )  # fmt: skip
        self.report.conditions, self.report.rows = before["conditions"], before["rows"]
        self.report.rounds = before["rounds"]

    def has(self, variant: Variant) -> bool:
        return any(_key(row) == variant.key for row in self.report.rows)

    def add(self, row: Row, rounds: Mapping[str, Any]) -> None:
        """A variant's row and what each of its rounds measured; the file then has them."""
        report = self.report
        report.rows = sorted([*report.rows, row], key=lambda row: self._order.get(_key(row), len(self._order)))
        if rounds:
            report.rounds = {**report.rounds, " ".join(_key(row)): rounds}
        report.write(self._folder)


def _key(row: Row) -> tuple[str, str, str]:
    return row["section"], row["stage"], row["name"]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """NAME before, now another; ..."""
    now = json.loads(json.dumps(now))  # as a file gives it
    names = [name for name in {**before, **now} if name not in _MAY_DIFFER and before.get(name) != now.get(name)]
    return "; ".join(f"{name} {before.get(name)}, now {now.get(name)}" for name in names)
