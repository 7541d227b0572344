"""The report of a load test: one HTML file, with its plots in it."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.findings import LIVE, Event
from loadtest.server import Watch

_PAGE = Template("""<!doctype html><html lang="en"><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884 }
td:first-child, th:first-child { text-align: left } figure { margin: 1rem 0; background: #fff; border-radius: 6px }
figure svg { width: 100%; height: auto } .good { color: #2a8c4a } .bad { color: #c33 }
</style><h1>$title</h1><p>$conditions</p><p><strong>$verdict</strong></p>
<h2>By number of listeners</h2>$levels<h2>Plots</h2>$plots<h2>The service's own figures</h2>$agreement</html>
""")
_SECONDS_A_BIN = 5.0


def write(path: Path, conditions: dict[str, Any], events: Sequence[Event], watch: Watch, told: dict[str, Any]) -> None:
    """`told`: what `findings` gives."""
    said = ", ".join(f"{name} {value}" for name, value in conditions.items())
    path.write_text(
        _PAGE.substitute(
            title="Chatterbox under load",
            conditions=html.escape(said),
            verdict=html.escape(verdict(told)),
            levels=_table(told["levels"], ("users", "utterances", "first_p50_s", "first_p95_s", "stalls", "silence",
                                           "refused", "failed")),
            plots="".join(f"<figure>{plot}</figure>" for plot in _plots(events, watch)),
            agreement=_table(told["agreement"], ("what", "clients", "server", "holds")),
        ),
        encoding="utf-8",
    )  # fmt: skip


def verdict(told: dict[str, Any]) -> str:
    """The capacity in words."""
    wanted = told["objective"]
    promise = (
        f"first audio within {wanted['first_audio_s']:g} s for 95 in 100, at most {100 * wanted['silence']:g} % of "
        f"silence, {100 * wanted['refused']:g} % refused"
    )
    if told["capacity"] is None:
        return f"Not even the fewest listeners had it: {promise}."
    return f"{told['capacity']} listeners at a time had it: {promise}."


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return f'<td class="{"good" if value else "bad"}">{"yes" if value else "no"}</td>'
        return f"<td>{html.escape(f'{value:.4g}' if isinstance(value, float) else str(value))}</td>"

    head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(cell(row[column]) for column in columns)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _plots(events: Sequence[Event], watch: Watch) -> list[str]:
    begin = min((one.at - one.took_s for one in events), default=0.0)
    played = [one for one in events if one.kind in LIVE and one.first_s is not None]
    return [
        _drawn("First audio: share of the utterances that had it by then", "s", lambda axes: _cdf(axes, played)),
        _drawn("Stalls of each utterance, by listeners at a time", "listeners", lambda axes: _stalls(axes, played)),
        _drawn("Seconds of audio a second", "s", lambda axes: _throughput(axes, played, begin)),
        _drawn("Real-time factor of each utterance (lower is better)", "s", lambda axes: _factors(axes, played, begin)),
        _drawn("Streams, by the service's own count", "s", lambda axes: _slots(axes, watch, begin)),
    ]


def _drawn(title: str, unit: str, draw: Any) -> str:
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _cdf(axes: Axes, played: Sequence[Event]) -> None:
    firsts = sorted(one.first_s for one in played if one.first_s is not None)
    axes.step(firsts, [(number + 1) / len(firsts) for number in range(len(firsts))], where="post")


def _stalls(axes: Axes, played: Sequence[Event]) -> None:
    users = sorted({one.users for one in played})
    own = [[one.stalls for one in played if one.users == count] for count in users]
    axes.plot(users, [sum(stalls) / len(stalls) for stalls in own], marker="o")


def _throughput(axes: Axes, played: Sequence[Event], begin: float) -> None:
    bins: dict[int, float] = {}
    for one in played:  # spread over the time that it took
        first, last = (int((at - begin) / _SECONDS_A_BIN) for at in (one.at - one.took_s, one.at))
        for number in range(first, last + 1):
            bins[number] = bins.get(number, 0.0) + one.audio_s / (last - first + 1)
    numbers = sorted(bins)
    axes.step([_SECONDS_A_BIN * number for number in numbers], [bins[number] / _SECONDS_A_BIN for number in numbers])


def _factors(axes: Axes, played: Sequence[Event], begin: float) -> None:
    whole = [one for one in played if one.outcome == "whole"]
    axes.plot([one.at - begin for one in whole], [one.took_s / one.audio_s for one in whole], ".", alpha=0.6)


def _slots(axes: Axes, watch: Watch, begin: float) -> None:
    for name, title in (("streams_live", "ingress"), ("t3_streams", "T3"), ("s3gen_streams", "S3Gen")):
        counted = [one.values.get(name, 0.0) for one in watch.looks]
        axes.plot([one.at - begin for one in watch.looks], counted, label=title)
    axes.legend()
