"""The rules: promtool takes them, each alert fires when it should and not before, and the docs have them all."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards import rules
from dashboards.__main__ import MANIFEST, RULES_YAML

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (prometheus) is not installed")
_REQUESTS, _BUSY = "ray_chatterbox_requests_total", "ray_chatterbox_{}_busy_seconds_total"
_LIVE = {"ray_chatterbox_streams_live": "5x60"}
_WELL = {
    **_LIVE,
    f'{_REQUESTS}{{outcome="ok"}}': "0+60x60",
    f'{_REQUESTS}{{outcome="failed"}}': "0+0x60",
    f'{_REQUESTS}{{outcome="overloaded"}}': "0+1x60",
    f'{_REQUESTS}{{outcome="unheard"}}': "0+2x60",
    "ray_chatterbox_s3gen_stalled_seconds_total": "0+0x60",
    "ray_chatterbox_s3gen_audio_seconds_total": "0+600x60",
    "ray_chatterbox_s3gen_heard_seconds_total": "0+300x60",
    "ray_chatterbox_s3gen_stalls_total": "0+0x60",
    "ray_chatterbox_t3_audio_seconds_total": "0+300x60",
    _BUSY.format("t3"): "0+20x60",
    _BUSY.format("s3gen"): "0+40x60",
    "ray_chatterbox_t3_reopened_total": "0+0x60",
    "ray_chatterbox_s3gen_reopened_total": "0+0x60",
    "ray_chatterbox_jobs_queued": "2x60",
    "ray_chatterbox_job_pieces_total": "0+1x60",
    'ray_chatterbox_first_audio_seconds_bucket{le="0.5"}': "0+60x60",
    'ray_chatterbox_first_audio_seconds_bucket{le="2"}': "0+60x60",
    'ray_chatterbox_first_audio_seconds_bucket{le="+Inf"}': "0+60x60",
}
"""Series by the minute of a service that is well."""
_ILL = {
    "ChatterboxFailing": {f'{_REQUESTS}{{outcome="failed"}}': "0+2x60"},
    "ChatterboxSilence": {
        "ray_chatterbox_s3gen_stalled_seconds_total": "0+1x60",
        "ray_chatterbox_s3gen_stalls_total": "0+3x60",
    },
    "ChatterboxUnheard": {f'{_REQUESTS}{{outcome="unheard"}}': "0+9x60"},
    "ChatterboxFirstAudioLate": {'ray_chatterbox_first_audio_seconds_bucket{le="0.5"}': "0+50x60"},
    "ChatterboxRefusing": {f'{_REQUESTS}{{outcome="overloaded"}}': "0+10x60"},
    "ChatterboxT3Busy": {_BUSY.format("t3"): "0+57x60"},
    "ChatterboxS3GenBusy": {_BUSY.format("s3gen"): "0+57x60"},
    "ChatterboxT3Broke": {"ray_chatterbox_t3_reopened_total": "0+1x60"},
    "ChatterboxS3GenBroke": {"ray_chatterbox_s3gen_reopened_total": "0+1x60"},
    "ChatterboxJobsStand": {"ray_chatterbox_job_pieces_total": "7+0x60"},
}
"""What is other then."""


_QUIET = {
    **{name: "0+0x60" for name in _WELL if name.startswith(_REQUESTS)},
    f'{_REQUESTS}{{outcome="ok"}}': "0+0x20 0+1x2 2+0x60",
    f'{_REQUESTS}{{outcome="failed"}}': "0+0x37 1+0x60",
    f'{_REQUESTS}{{outcome="unheard"}}': "0+0x37 1+0x60",
    "ray_chatterbox_s3gen_heard_seconds_total": "0+0x36 20+0x60",
    "ray_chatterbox_s3gen_stalls_total": "0+0x37 1+0x60",
    "ray_chatterbox_s3gen_stalled_seconds_total": "0+0x37 0.06+0x60",
}
"""A quiet hour in which one request breaks off, one is left, and one listener stalls once."""
_JOBS = {
    "ray_chatterbox_streams_live": "0x60", _BUSY.format("t3"): "0+57x60", _BUSY.format("s3gen"): "0+57x60",
}  # fmt: skip
"""Nobody listens, and a job takes all the time that there is."""


def test_committed_rules_are_fresh() -> None:
    assert rules.render() == RULES_YAML.read_text(), "run `python -m dashboards generate`"
    assert rules.manifest() == MANIFEST.read_text(), "run `python -m dashboards generate`"


def test_the_docs_have_every_alert() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert rules.table() in page, "put dashboards.rules.table() there"


@needs_promtool
@pytest.mark.parametrize("ill", [None, "quiet", "jobs", "ChatterboxDown", *_ILL])
def test_each_alert_fires_when_it_should_and_no_other_does(ill: str | None, tmp_path: Path) -> None:
    series = {} if ill == "ChatterboxDown" else {**_WELL, **(_ILL | {None: {}, "quiet": _QUIET, "jobs": _JOBS})[ill]}
    expected = []
    for alert in rules.ALERTS:
        wanted = [{"exp_labels": {"severity": alert.severity}}] if alert.name == ill else []
        expected.append({"eval_time": "40m", "alertname": alert.name, "exp_alerts": wanted})
    test = {
        "rule_files": [str(tmp_path / "rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    told = yaml.safe_load(rules.render())
    for group in told["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # promtool compares their texts, numbers and all
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(told))
    (tmp_path / "test.yaml").write_text(json.dumps(test))
    run = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yaml")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_promtool_takes_the_committed_file() -> None:
    subprocess.run(["promtool", "check", "rules", str(RULES_YAML)], check=True, capture_output=True)


def test_every_alert_has_a_case() -> None:
    assert {alert.name for alert in rules.ALERTS} == {"ChatterboxDown", *_ILL}
