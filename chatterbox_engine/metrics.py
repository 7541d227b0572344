"""Every metric: the specification that exporters, dashboards and alerts are made from."""

from dataclasses import dataclass
from typing import Literal

PREFIX = "chatterbox_"
FIRST_AUDIO_BUCKETS = (
    0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
OUTCOMES = ("ok", "refused", "overloaded", "failed", "cancelled", "unheard")
"""How requests end; unheard: their client left before there was any sound."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, named as prometheus-client exports it, without the prefix; Ray's exporter puts `ray_` before it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """As Grafana names it: s, bytes, short."""
    help: str
    labels: tuple[str, ...] = ()
    raw: bool = False
    """No panel shows it: it is there to be asked for."""

    @property
    def sample(self) -> str:
        """The name of its samples where prometheus-client exports it."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def exported(self) -> str:
        """The name of its samples where Ray exports it."""
        return f"ray_{self.sample}"


def _stage(stage: str, title: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{stage}_busy_seconds", "counter", "s", f"Seconds {title} spent working."),
        Metric(f"{stage}_steps", "counter", "short", f"Steps of {title} that did work."),
        Metric(f"{stage}_audio_seconds", "counter", "s", f"Seconds of audio {title} made."),
        Metric(f"{stage}_streams", "gauge", "short", f"Streams that {title} works on."),
        Metric(f"{stage}_places", "gauge", "short", f"Streams that {title} has places for."),
        Metric(f"{stage}_batch_size", "gauge", "short", f"Streams in {title}'s last step."),
    )


SPECIFICATION = (
    *_stage("t3", "T3"),
    Metric("t3_tokens", "counter", "short", "Speech tokens that T3 sampled.", raw=True),
    Metric("t3_queue_depth", "gauge", "short", "Requests that wait for a place in T3."),
    Metric("t3_admitted", "counter", "short", "Requests that got a place in T3."),
    Metric("t3_queue_seconds", "counter", "s", "Seconds that they waited for it."),
    Metric("t3_kv_bytes", "gauge", "bytes", "Keys and values of T3's live streams."),
    Metric("t3_reopened", "counter", "short", "Streams that went on after their T3 replica broke off."),
    Metric("s3gen_reopened", "counter", "short", "Streams that went on after their S3Gen replica broke off."),
    *_stage("s3gen", "S3Gen"),
    Metric("s3gen_heard_seconds", "counter", "s", "Seconds of audio S3Gen made for those who play it as it comes."),
    Metric("s3gen_begun", "counter", "short", "Streams whose first sound S3Gen made, jobs' pieces among them."),
    Metric("s3gen_first_tokens_seconds", "counter", "s", "Seconds that those waited in S3Gen for T3's first tokens."),
    Metric("s3gen_first_sound_seconds", "counter", "s", "Seconds from then to their first sound."),
    Metric("s3gen_watermark_seconds", "counter", "s", "Seconds of S3Gen's busy time that the watermark took."),
    Metric("s3gen_stalls", "counter", "short", "Times that a listener's playback ran dry."),
    Metric("s3gen_stalled_seconds", "counter", "s", "Seconds of silence that listeners heard within utterances."),
    Metric("voices_cached", "gauge", "short", "Voices that a stage's replica has at hand.", ("stage",)),
    Metric("cold_starts", "counter", "short", "Replicas that started.", ("stage",)),
    Metric("cold_start_seconds", "gauge", "s", "From a replica's start until it was warm.", ("stage",)),
    Metric("streams_live", "gauge", "short", "Requests in flight."),
    Metric("requests", "counter", "short", "Speech requests by how they ended.", ("outcome",)),
    Metric("errors", "counter", "short", "Errors that ended speech requests, by kind.", ("kind",)),
    Metric("first_audio_seconds", "histogram", "s", "From a request's arrival to its first audio."),
    Metric("jobs_queued", "gauge", "short", "Jobs that are worked on, or wait for it."),
    Metric("job_pieces", "counter", "short", "Pieces of jobs that were spoken."),
    Metric("vram_allocated_bytes", "gauge", "bytes", "Device memory in tensors.", ("stage",)),
    Metric("vram_reserved_bytes", "gauge", "bytes", "Device memory held by the allocator.", ("stage",)),
    Metric("vram_peak_bytes", "gauge", "bytes", "Most device memory in tensors since the start.", ("stage",)),
    Metric("vram_free_bytes", "gauge", "bytes", "Device memory that nobody holds.", ("stage",)),
    Metric("gpu_busy", "gauge", "percentunit", "Share of the time in which the device computed.", ("stage",)),
    Metric("build_info", "gauge", "short", "1, with what runs as labels.", ("version", "model", "profile"), raw=True),
)
BY_NAME = {metric.name: metric for metric in SPECIFICATION}
Readings = dict[str, float]
"""By the metrics' names."""
