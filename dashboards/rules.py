"""Prometheus rules: what is recorded, and when an operator is told, before listeners notice where that can be."""

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from dashboards.queries import Query, busiest, only, over, quantile, rate, ratio, share, total

_WINDOW = "5m"


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that holds for some time, and what to do then."""

    name: str
    expr: str
    held: str
    """How long it must hold."""
    severity: Literal["page", "ticket"]
    """page: listeners notice now. ticket: they will, or something is lost that nobody hears."""
    summary: str
    runbook: str
    """Where to look, and what to do."""


def _now(query: Query) -> str:
    return over(query, _WINDOW)


RECORDED = {
    "chatterbox:first_audio_seconds:p95": quantile(0.95, "first_audio_seconds"),
    "chatterbox:silence:share": ratio("s3gen_stalled_seconds", "s3gen_heard_seconds", "silence"),
    "chatterbox:requests:refused": share("requests", "overloaded"),
    "chatterbox:requests:failed": share("requests", "failed"),
    "chatterbox:requests:unheard": share("requests", "unheard"),
    "chatterbox:t3:busy": busiest("t3_busy_seconds"),
    "chatterbox:s3gen:busy": busiest("s3gen_busy_seconds"),
    "chatterbox:t3:real_time_factor": ratio("t3_busy_seconds", "t3_audio_seconds", "T3"),
    "chatterbox:s3gen:real_time_factor": ratio("s3gen_busy_seconds", "s3gen_audio_seconds", "S3Gen"),
}
"""Named as Prometheus recommends, level:metric:operation."""


def _some(query: Query) -> str:
    """More than two of these events: one alone is a large share of what a quiet hour has."""
    return f"300 * {over(query, _WINDOW)} > 2"


_LISTENED = f"{_now(total('streams_live'))} > 0"
"""Jobs may take all of a stage's time where nobody listens."""
_BUSY = "Its stage has no time left for more listeners: add a replica of it before there are stalls or refusals."
ALERTS = (
    Alert(
        "ChatterboxDown", f"absent({_now(total('streams_live'))})", "1m", "page",
        "No ingress of Chatterbox reports.",
        "Is the service up (`serve status`), /health 200, and does Prometheus scrape Ray's exporter? Replicas that do "
        "not start say why in their first log lines.",
    ),
    Alert(
        "ChatterboxFailing", f"chatterbox:requests:failed > 0.01 and {_some(only('requests', 'failed'))}", "2m", "page",
        "{{ $value | humanizePercentage }} of the requests break off.",
        "The ingress's log has each error under its request's id; `ray list actors` has the replicas that died. One "
        "that is out of memory needs fewer max_streams.",
    ),
    Alert(
        "ChatterboxUnheard", f"chatterbox:requests:unheard > 0.1 and {_some(only('requests', 'unheard'))}", "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests are left before there is any sound.",
        "Clients give up: is a stage without a replica (`serve status`), or does the first sound take longer than they "
        "wait? Where they ask and take it back on purpose, as agents do that guess ahead, raise this bound.",
    ),
    Alert(
        "ChatterboxSilence", f"chatterbox:silence:share > 0.002 and {_some(rate('s3gen_stalls'))}", "2m", "page",
        "Listeners hear {{ $value | humanizePercentage }} of silence within utterances.",
        "S3Gen does not keep up with those it let in: look at its busy share and batch size, and at what else runs on "
        "its device. Add S3Gen replicas; until they are there, lower s3gen.max_streams.",
    ),
    Alert(
        "ChatterboxFirstAudioLate", "chatterbox:first_audio_seconds:p95 > 1", "5m", "page",
        "The first sound takes {{ $value | humanizeDuration }} (p95).",
        "T3's queue depth says whether places are missing (t3.max_streams, t3_replicas). Where it is 0, look at both "
        "stages' busy share.",
    ),
    Alert(
        "ChatterboxRefusing", "chatterbox:requests:refused > 0.05", "5m", "ticket",
        "{{ $value | humanizePercentage }} of the requests get 429.",
        "All places are taken: add replicas of the busier stage, or talk to the key that asks for so much; the log "
        "lines have its name.",
    ),
    Alert(
        "ChatterboxT3Busy", f"chatterbox:t3:busy > 0.9 and {_LISTENED}", "10m", "ticket",
        "A T3 replica works {{ $value | humanizePercentage }} of the time.", _BUSY,
    ),
    Alert(
        "ChatterboxS3GenBusy", f"chatterbox:s3gen:busy > 0.9 and {_LISTENED}", "10m", "ticket",
        "An S3Gen replica works {{ $value | humanizePercentage }} of the time.", _BUSY,
    ),
    Alert(
        "ChatterboxT3Broke", f"{_now(rate('t3_reopened'))} > 0", "0m", "ticket",
        "Streams went on after a T3 replica broke off.",
        "Nobody heard it. The replica's log and `dmesg` say what ended it; a text that ends every replica ends with an "
        "error after four.",
    ),
    Alert(
        "ChatterboxS3GenBroke", f"{_now(rate('s3gen_reopened'))} > 0", "0m", "ticket",
        "Streams went on after an S3Gen replica broke off.",
        "Their listeners heard silence where no other replica was there at once: have two (s3gen_replicas). The "
        "replica's log and `dmesg` say what ended it.",
    ),
    Alert(
        "ChatterboxJobsStand",
        f"({_now(total('jobs_queued'))} > 0) and ({_now(rate('job_pieces'))} == 0)", "15m", "ticket",
        "Jobs are queued, and none gets on.",
        "The log of the replica Jobs says which piece is tried again, and why. Where live traffic has all places at "
        "all times, add replicas.",
    ),
)  # fmt: skip


def render() -> str:
    """The file of rules, as it is committed and as Prometheus reads it."""
    return yaml.safe_dump(_groups(), sort_keys=False, width=1000)


def manifest() -> str:
    """The same for Prometheus's operator."""
    told = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "chatterbox"}}
    return yaml.safe_dump({**told, "spec": _groups()}, sort_keys=False, width=1000)


def _groups() -> dict[str, Any]:
    recorded = [{"record": name, "expr": _now(query)} for name, query in RECORDED.items()]
    alerts = [_written(alert) for alert in ALERTS]
    return {
        "groups": [{"name": "chatterbox recorded", "rules": recorded}, {"name": "chatterbox alerts", "rules": alerts}]
    }


def table() -> str:
    """The alerts as a table for docs/operations.md."""
    head = ["| alert | holds for | tells | what to do |", "| --- | --- | --- | --- |"]
    rows = [f"| {a.name} ({a.severity}) | `{a.expr}`, {a.held} | {a.summary} | {a.runbook} |" for a in ALERTS]
    return "\n".join([*head, *rows])


def _written(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.held,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook": alert.runbook},
    }
