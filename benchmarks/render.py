"""python -m benchmarks render: docs/performance.md's tables, from the models' dimensions and the JSON of `ab`.

Nothing is measured here. The tables stand between markers; what is around them is written by hand.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ceilings, subject
from benchmarks.ab_variants import CLAIMS, Claim
from benchmarks.report import Column, Row, conditions_line, file_name, gigabytes, load, measured, number, scaled, table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_NOTHING = "Nothing is measured yet. `uv run python -m benchmarks ab --write-docs` measures and writes this."
_MAIN = {"t3": "ms a step", "s3gen": "real-time factor", "e2e": "real-time factor"}
_HEADINGS = {
    "alone": "Each switch alone, beside `reference`",
    "profile": "Each profile, beside `reference`",
    "without": "`balanced` with one switch changed, beside `balanced`",
}

COLUMNS = (
    Column("name", "variant"),
    Column("measure", "measure"),
    Column("value", "value"),
    Column("speed", "speed", scaled(1.0, "x")),
    Column("first", "first token or audio, ms", scaled(1e3)),
    Column("first_speed", "sooner by", scaled(1.0, "x")),
    Column("memory", "peak, own and base"),
    Column("wer", "WER, 95 %"),
    Column("mos", "NISQA-TTS", number),
    Column("difference", "difference in output"),
    Column("note", "said"),
)
_HEARD = ("wer", "mos")
"""Columns of models that speak."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=subject.RESULTS, help="folder of the JSON (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Write the page's tables."""
    write_page(options.results)
    print(f"{PAGE.name} is written")


def write_page(results: Path, page: Path = PAGE) -> None:
    """Replace what stands between the page's markers. Raises ValueError where a marker is missing."""
    page.write_text(rendered(page.read_text(), results))


def rendered(text: str, results: Path) -> str:
    """A page's text with its tables as `results` has them. Raises ValueError where a marker is missing."""
    return _between(_between(text, "ceilings", ceilings.tables()), "ab", comparisons(results))


def comparisons(results: Path) -> str:
    """Markdown: for each model that `ab` measured, its variants; then what the starting reports claimed."""
    files = sorted(results.glob("ab-*.json"))
    told = [load(path) for path in files]
    parts = [_model(result, heard(results, result["conditions"])) for result in told] or [_NOTHING]
    return "\n\n".join((*parts, _claims(told)))


def heard(results: Path, conditions: Mapping[str, Any]) -> dict[str, Row]:
    """What `quality` heard of a model on the sentences by which is chosen, by variant; nothing if it did not."""
    device = conditions["device"].partition(":")[0]
    path = results / f"{file_name('quality-choosing', conditions['model'], device)}.json"
    return {row["variant"]: row for row in load(path)["rows"]} if path.exists() else {}


def _model(result: dict[str, Any], listened: Mapping[str, Row]) -> str:
    parts = [f"### {result['conditions']['model']} on {result['conditions']['device']}",
             conditions_line(result["conditions"])]  # fmt: skip
    columns = [column for column in COLUMNS if listened or column.key not in _HEARD]
    if listened:
        parts.append("WER and NISQA-TTS are those of [quality.md](quality.md): of the profile as it serves or, beside "
                     "a switch, of `balanced` with it.")  # fmt: skip
    for section, heading in _HEADINGS.items():
        rows = [{**shown(row), **_heard(listened.get(row["name"]))} for row in result["rows"]
                if row["section"] == section]  # fmt: skip
        if rows:
            parts.append(f"**{heading}**\n\n{table(columns, rows)}")
    return "\n\n".join(parts)


def _heard(row: Row | None) -> Row:
    if row is None or "wer" not in row:
        return {}
    low, high = (f"{100 * end:.1f}" for end in row["wer_interval"])
    return {"wer": f"{100 * row['wer']:.1f} % ({low}..{high})", "mos": row["mos"]}


def shown(row: Row) -> Row:
    """A row of `ab` with what several of its values say together."""
    waits = f"waits for {row['waits']}" if "waits" in row else None
    own = {**row, "name": f"`{row['name']}`", "measure": f"{row['stage']}, {_MAIN[row['stage']]}",
           "note": row.get("note") or waits}  # fmt: skip
    if "value" in row:
        own["value"] = measured(row["value"], 1e3 if row["stage"] == "t3" else 1.0)
        own["memory"] = f"{gigabytes(row['peak_bytes'])}, {gigabytes(row['base_peak_bytes'])}"
        own["difference"] = _difference(row)
    return own


def _difference(row: Row) -> str:
    if "kl" in row:
        return f"KL {number(row['kl'])} nats over {row['kl_positions']:,} positions; {row['same_tokens']} runs equal"
    if "mel" in row:
        return f"log-mel {number(row['mel'])}"
    if "first_call_s" in row:
        own, base = (number(1e3 * row[key]) for key in ("first_call_s", "base_first_call_s"))
        return f"first call's first audio {own} ms, base {base} ms"
    return ""


def _claims(results: Sequence[dict[str, Any]]) -> str:
    rows = [{"name": claim.name, "here": claim.here, "found": _found(claim, results)} for claim in CLAIMS]
    columns = (
        Column("name", "the starting reports' optimisation"),
        Column("here", "here"),
        Column("found", "speed alone beside `reference`"),
    )
    return f"### What the starting reports claimed\n\n{table(columns, rows)}"


def _found(claim: Claim, results: Sequence[dict[str, Any]]) -> str:
    if claim.waits is not None:
        return f"waits for {claim.waits}"
    if not claim.rows:
        return "built in: there is nothing to switch off"
    said = [_said(name, result) for result in results for name in claim.rows]
    return "; ".join(filter(None, said)) or "waits for a run of `ab`"


def _said(name: str, result: dict[str, Any]) -> str:
    model = result["conditions"]["model"]
    for row in result["rows"]:
        if row["section"] == "alone" and name in row["name"].split():
            if "speed" in row:
                sooner = f", first {measured(row['first_speed'], unit='x')}" if row["stage"] == "e2e" else ""
                return f"`{name}` {measured(row['speed'], unit='x')}{sooner} ({model})"
            return f"`{name}` {'waits for ' + row['waits'] if 'waits' in row else 'does not run here'} ({model})"
    return ""


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"the page has no {begin} ... {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
