"""The dashboards: are listeners happy; each stage; devices; what a request waits for on its way."""

import json
from collections.abc import Callable

from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.panels import Row, board, panel, real_time_factor, row
from dashboards.queries import busiest, each, highest, mean, quantile, rate, ratio, total

_TITLES = {"t3": "T3", "s3gen": "S3Gen"}


def overview() -> Dashboard:
    """Are listeners happy, and what is each stage doing for it?"""
    return board(
        "chatterbox-overview",
        "Chatterbox overview",
        row(
            "Listeners",
            panel("Time to first audio", *(quantile(q, "first_audio_seconds") for q in (0.5, 0.95, 0.99))),
            panel("Requests by outcome", rate("requests")),
            panel("Silence within utterances", rate("s3gen_stalled_seconds"), note="Of 1 s for each listener."),
            panel("Streams live", total("streams_live")),
        ),
        row("Failures", panel("Errors by kind", rate("errors")), panel("Stalls", rate("s3gen_stalls")), _reopened()),
        row(
            "Stages",
            *(
                panel(f"{title}'s busiest replica", busiest(f"{stage}_busy_seconds"))
                for stage, title in _TITLES.items()
            ),
            *(_places(stage) for stage in _TITLES),
        ),
        row("Jobs", panel("Jobs queued", total("jobs_queued")), panel("Pieces spoken", rate("job_pieces"))),
    )


def t3() -> Dashboard:
    """Text to speech tokens."""
    return board(
        "chatterbox-t3",
        "Chatterbox T3",
        *_stage("t3"),
        row(
            "Queue and memory",
            panel("Queue depth", total("t3_queue_depth")),
            panel("Wait for a place", ratio("t3_queue_seconds", "t3_admitted", "wait", "s")),
            panel("Keys and values of live streams", total("t3_kv_bytes")),
            _reopened(),
        ),
    )


def s3gen() -> Dashboard:
    """Speech tokens to audio."""
    return board(
        "chatterbox-s3gen",
        "Chatterbox S3Gen",
        *_stage("s3gen"),
        row(
            "Playback",
            panel("Stalls for each second heard", ratio("s3gen_stalls", "s3gen_heard_seconds", "stalls")),
            panel("Silence within utterances", ratio("s3gen_stalled_seconds", "s3gen_heard_seconds", "silence",
                                                     "percentunit")),
            panel("Watermark's share of busy time", ratio("s3gen_watermark_seconds", "s3gen_busy_seconds", "watermark",
                                                          "percentunit")),
        ),
    )  # fmt: skip


def devices() -> Dashboard:
    """What the replicas take of their devices."""
    return board(
        "chatterbox-devices",
        "Chatterbox devices",
        row(
            "Memory",
            *(
                panel(f"VRAM {what}", highest(f"vram_{what}_bytes"), note="Of the stage's fullest replica.")
                for what in ("allocated", "reserved", "peak")
            ),
            panel("VRAM free", each("vram_free_bytes"), note="Of the stage's fullest replica."),
        ),
        row(
            "Use",
            panel("Device busy", each("gpu_busy")),
            panel("Voices at hand", each("voices_cached")),
        ),
        row(
            "Starts",
            panel("Replicas that started", rate("cold_starts")),
            panel("Start of a replica", highest("cold_start_seconds")),
        ),
    )


def request() -> Dashboard:
    """What a request waits for until its first sound, on average; OpenTelemetry's spans tell of a single one."""
    return board(
        "chatterbox-request",
        "Chatterbox: one request's way",
        row("To the client", panel("Time to first audio", quantile(0.5, "first_audio_seconds"),
                                   quantile(0.95, "first_audio_seconds"))),
        row(
            "On its way there, on average",
            panel("Wait for a place in T3", ratio("t3_queue_seconds", "t3_admitted", "queue", "s")),
            panel("T3's first tokens", ratio("s3gen_first_tokens_seconds", "s3gen_begun", "T3", "s")),
            panel("S3Gen's first sound", ratio("s3gen_first_sound_seconds", "s3gen_begun", "S3Gen", "s")),
        ),
        row(
            "A step",
            *(
                panel(f"{title}'s step", ratio(f"{stage}_busy_seconds", f"{stage}_steps", "step", "s"))
                for stage, title in _TITLES.items()
            ),
        ),
    )  # fmt: skip


BOARDS: dict[str, Callable[[], Dashboard]] = {
    "overview": overview, "t3": t3, "s3gen": s3gen, "devices": devices, "request": request,
}  # fmt: skip
"""By the names of their files."""


def render(name: str) -> str:
    """A dashboard's JSON, as it is committed."""
    return json.dumps(BOARDS[name](), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _stage(stage: str) -> tuple[Row, ...]:
    return (
        row(
            "Work",
            real_time_factor(stage),
            panel("Busiest replica", busiest(f"{stage}_busy_seconds")),
            panel("Seconds of audio a second", rate(f"{stage}_audio_seconds", "short")),
            panel("Step", ratio(f"{stage}_busy_seconds", f"{stage}_steps", "step", "s")),
        ),
        row("Streams", _places(stage), panel("Batch size", mean(f"{stage}_batch_size"))),
    )


def _places(stage: str) -> Panel:
    title = f"{_TITLES[stage]}'s streams and places"
    return panel(title, total(f"{stage}_streams"), total(f"{stage}_places"))


def _reopened() -> Panel:
    return panel("Streams whose replica broke off, and that went on", rate("t3_reopened"), rate("s3gen_reopened"))
