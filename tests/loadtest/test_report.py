"""What a load test finds follows from what listeners and the service saw; the report shows it."""

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest

from loadtest.__main__ import run
from loadtest.findings import Event, Objective, agreements, capacity, findings, level, levels, quantile, read
from loadtest.report import verdict, write
from loadtest.server import Look, Watch
from loadtest.stages import stages
from tests.service import Service


def event(users: int = 1, **given: object) -> Event:
    plain = {"at": 10.0, "kind": "listener", "outcome": "whole", "users": users, "audio_s": 2.0, "first_s": 0.2,
             "took_s": 1.0, "stalls": 0, "stalled_s": 0.0}  # fmt: skip
    return Event(**{**plain, **given})  # type: ignore[arg-type]


def watched(**grown: float) -> Watch:
    watch = Watch([])
    watch.looks = [Look(0.0, dict.fromkeys(grown, 5.0)), Look(1.0, {name: 5.0 + by for name, by in grown.items()})]
    return watch


def test_the_capacity_is_the_most_listeners_with_none_below_who_had_less() -> None:
    well, late, silent, full, broken = (
        [event(2), event(2)],
        [event(4, first_s=3.0)],
        [event(6, stalls=1, stalled_s=1.0)],
        [event(8, outcome="429", first_s=None, audio_s=0.0), event(8)],
        [event(10, outcome="failed"), event(10)],
    )
    objective = Objective()
    assert [one.meets(objective) for one in levels([*well, *late, *silent, *full, *broken])] == [True] + 4 * [False]
    assert capacity(levels([*well, event(4), *silent]), objective) == 4
    assert capacity(levels([*late, event(6)]), objective) is None
    assert level(2, well).utterances == 2
    assert level(6, silent).silence == pytest.approx(1 / 3)


def test_those_who_make_themselves_wait_do_not_count_as_late() -> None:
    found = level(1, [event(), event(kind="slow reader", stalls=9, stalled_s=9.0, first_s=9.0), event(kind="voice")])
    assert (found.utterances, found.stalls, found.first_p95_s) == (1, 0, 0.2)


@pytest.mark.parametrize(("server", "holds"), [(10, True), (11, False)])
def test_a_difference_over_a_twentieth_is_told(server: float, holds: bool) -> None:
    grown = {"requests_total/ok": server, "s3gen_audio_seconds_total": 20.0}
    found = {one.what: one.holds for one in agreements([event()] * 10, watched(**grown))}
    assert found == {"utterances that ended whole": holds, "seconds of audio": True}


def test_first_audio_is_compared_at_the_histograms_bounds() -> None:
    bucket = "first_audio_seconds_bucket/"
    grown = {f"{bucket}0.1": 0.0, f"{bucket}0.4": 10.0, f"{bucket}2.0": 10.0, f"{bucket}+Inf": 10.0}
    (found,) = (one for one in agreements([event()] * 10, watched(**grown)) if "first" in one.what)
    assert (found.what, found.clients, found.server) == ("share of first audio within 0.4 s", 1.0, 1.0)


def test_quantiles_are_values_that_were_seen() -> None:
    assert [quantile([3.0, 1.0, 2.0], q) for q in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile([], 0.5) == 0.0
    assert [quantile(range(1, count + 1), 0.95) for count in (1, 10, 20, 100)] == [1, 10, 19, 95]


def test_nothing_is_compared_with_figures_that_were_not_read() -> None:
    assert agreements([event()], Watch([])) == []


def test_an_utterance_without_audio_is_reported_too() -> None:
    assert findings([event(audio_s=0.0)], Watch([]), Objective())["real_time_factor"] == 0.0


@pytest.mark.parametrize("shape", ["steady", "ramp", "spike"])
def test_shapes_end_and_reach_their_most(shape: str) -> None:
    found = stages(shape, 10, 5, 60.0)
    assert found[-1][0] == 60.0
    assert max(users for _, users in found) == 10
    assert [end for end, _ in found] == sorted(end for end, _ in found)


def test_the_report_is_one_page_with_its_plots(tmp_path: Path) -> None:
    events, watch = [event(), event(3, at=20.0, first_s=0.4)], watched(streams_live=1.0)
    told = findings(events, watch, Objective())
    write(tmp_path / "report.html", {"machine": "<x86>"}, events, watch, told)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5
    for part in page.split("<figure>")[1:]:
        ET.fromstring(part.partition("</figure>")[0])
    assert "&lt;x86&gt;" in page
    assert verdict(told) in page.replace("&#x27;", "'")
    assert "3 listeners at a time" in verdict(told)
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://creativecommons.org", "").replace("http://purl.org", "")  # fmt: skip


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "events").write_text(json.dumps(asdict(event())) + "\n")
    assert read(tmp_path / "events") == [event()]


@pytest.mark.service
def test_listeners_and_the_service_agree(service: Service, tmp_path: Path) -> None:
    """A real run, with some who speak over WebSocket, read slowly, and bring voices."""
    import ray

    (node,) = ray.nodes()
    metrics = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"]
    shares = ["--websocket-share", "0.2", "--slow-share", "0.2", "--voice-share", "0.1", "--texts", "short"]
    watch = run(service.url, metrics, ["--shape", "ramp", "--steps", "2", "--most", "2", *shares], 14.0,
                tmp_path / "events")  # fmt: skip
    events = read(tmp_path / "events")
    told = findings(events, watch, Objective(first_audio_s=60.0, silence=1.0))
    assert {one.outcome for one in events} == {"whole"}
    assert {"listener"} < {one.kind for one in events}
    assert told["capacity"] == 2
    assert [one for one in agreements(events, watch) if not one.holds] == []
    service.wait_until_idle()
