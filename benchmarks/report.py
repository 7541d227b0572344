"""A benchmark's outcome: conditions and a table on stdout, raw figures in a JSON file, a last line for machines."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread
from chatterbox_engine.files import whole

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table: the row's key, what stands above it, and how a value is written."""

    key: str
    title: str
    write: Callable[[Any], str] = str


@dataclass
class Report:
    """What was measured, and how it is shown."""

    name: str
    """Also the JSON file's."""
    conditions: dict[str, Any]
    columns: Sequence[Column]
    rows: list[Row]
    rounds: Mapping[str, Any] = field(default_factory=dict)
    """Every single measurement."""
    shown: Callable[[Row], Row] = dict
    """What of a row's values goes into the table, where it is not the row as it is."""

    def emit(self, folder: Path) -> Path:
        """Print it, and `write` it; the last line printed is the JSON without the single rounds."""
        path = self.write(folder)
        print(self.text())
        print(json.dumps(self.as_dict(), default=_plain), flush=True)
        return path

    def write(self, folder: Path) -> Path:
        """The JSON file in `folder`: all of it, or the one that was there before."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        with whole(path) as part:
            part.write_text(json.dumps({**self.as_dict(), "rounds": self.rounds}, indent=1, default=_plain) + "\n")
        return path

    def text(self) -> str:
        """The conditions, and the table beneath them."""
        rows = [self.shown(_read_back(row)) for row in self.rows]
        return f"{conditions_line(self.conditions)}\n\n{table(self.columns, rows)}\n"

    def as_dict(self) -> dict[str, Any]:
        return {"benchmark": self.name, "conditions": self.conditions, "rows": self.rows}


def load(path: Path) -> dict[str, Any]:
    """What `write` wrote. Raises OSError, ValueError."""
    return json.loads(path.read_text())


def file_name(benchmark: str, model: str, device_type: str) -> str:
    """Of a result, without its ending: by benchmark, model and kind of device."""
    return f"{benchmark}-{plain_name(model)}" + ("" if device_type == "cpu" else f"-{device_type}")


def plain_name(text: str) -> str:
    """Of letters, digits, dots and dashes, as a file's name may be."""
    return "".join(character if character.isalnum() or character in "-." else "-" for character in text).strip("-")


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Markdown. What a row does not have is left empty."""
    lines = [[column.title for column in columns], ["---"] * len(columns)]
    for row in rows:
        lines.append(["" if row.get(c.key) is None else c.write(row[c.key]) for c in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """NAME value, NAME value, ..."""
    parts = []
    for name, value in conditions.items():
        if value is None or value == []:
            continue
        parts.append(f"{name.replace('_', ' ')} {_shown(value)}")
    return ", ".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, int | float) and abs(value) >= 1e7:
        return f"{number(value / 1e9)} G"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def measured(value: Spread | Mapping[str, float], factor: float = 1.0, unit: str = "") -> str:
    """median (min..max), times a factor."""
    got = value.as_dict() if isinstance(value, Spread) else value
    median, least, greatest = (number(factor * got[key]) for key in ("median", "min", "max"))
    return f"{median}{unit} ({least}..{greatest})"


def scaled(factor: float, unit: str = "") -> Callable[[Any], str]:
    """A writer of spreads in another unit: scaled(1e3) writes seconds as milliseconds."""
    return lambda value: measured(value, factor, unit)


def rate(unit: str = "") -> Callable[[Any], str]:
    """A writer of plain numbers with a unit behind them."""
    return lambda value: f"{number(value)}{unit}"


def gigabytes(value: float) -> str:
    return f"{number(value / 1e9)} GB"


def percent(value: float) -> str:
    return f"{number(100 * value)} %"


def _read_back(row: Row) -> Row:
    """The row as its JSON gives it, so that a table looks the same when it is made from a file."""
    return json.loads(json.dumps(row, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return value.as_dict()
    raise TypeError(f"{type(value).__name__} does not go into JSON")
