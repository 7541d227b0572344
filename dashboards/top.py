"""What the overview shows, as text in a terminal, from Ray's exporter itself: for where there is no Grafana."""

import json
import math
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from chatterbox_engine.metrics import OUTCOMES, SPECIFICATION

_TEMP = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None) or "/tmp"
DISCOVERY = Path(_TEMP) / "ray" / "prom_metrics_service_discovery.json"
"""Where a Ray head node says at which addresses its nodes export metrics (Ray looks at the same variables)."""
_EXPORTED = {metric.exported: metric.name for metric in SPECIFICATION}
_BUCKETS = {f"{metric.exported}_bucket": metric.name for metric in SPECIFICATION if metric.kind == "histogram"}
_STAGES = (("t3", "T3"), ("s3gen", "S3Gen"))
_TIMEOUT_S = 5.0
_WINDOW_S = 20.0
"""What is shown is of so many seconds: Ray's processes tell what they count every ten."""
_CLEAR = "\x1b[H\x1b[2J"


class NoMetrics(Exception):
    """Nobody exports metrics where they were looked for; the message says what to do."""


@dataclass(frozen=True)
class Snapshot:
    """All nodes' figures at one moment, replicas summed; labelled ones under `name/value`."""

    at: float
    """On the monotonic clock."""
    values: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: defaultdict[str, defaultdict[float, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    """Of a histogram: observations up to each bound."""

    @classmethod
    def of(cls, pages: Iterable[str], at: float) -> "Snapshot":
        """From the pages that nodes export, in Prometheus's text format."""
        made = cls(at)
        labels = {metric.name: metric.labels[0] for metric in SPECIFICATION if metric.labels}
        for page in pages:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if (name := _EXPORTED.get(sample.name)) is not None:
                        label = labels.get(name)
                        made.values[f"{name}/{sample.labels.get(label, '')}" if label else name] += sample.value
                    elif (name := _BUCKETS.get(sample.name)) is not None:
                        made.buckets[name][float(sample.labels["le"])] += sample.value
        return made


def frame(before: Snapshot, now: Snapshot) -> str:
    """What is shown of the time between two snapshots."""
    seconds = max(1e-9, now.at - before.at)

    def grown(name: str) -> float:
        return max(0.0, now.values[name] - before.values[name])

    first = [_seconds(quantile(before, now, "first_audio_seconds", q)) for q in (0.5, 0.95)]
    requests_ = ", ".join(f"{grown(f'requests/{outcome}') / seconds:.1f} {outcome}" for outcome in OUTCOMES)
    audio = grown("s3gen_heard_seconds")
    silence = 100 * grown("s3gen_stalled_seconds") / audio if audio else 0.0
    lines = [
        f"listeners  {now.values['streams_live']:.0f} live    first audio {first[0]} (p50), {first[1]} (p95)    "
        f"silence {silence:.2f} %, {grown('s3gen_stalls'):.0f} stalls",
        f"requests   {requests_} a second",
        "",
        f"{'':8}{'streams':>9}{'batch':>8}{'busy':>9}{'audio s/s':>11}{'real-time factor':>18}{'waiting':>9}",
    ]
    for stage, title in _STAGES:
        busy, made = grown(f"{stage}_busy_seconds"), grown(f"{stage}_audio_seconds")
        factor = f"{busy / made:.3f}" if made else "-"
        waiting = f"{now.values['t3_queue_depth']:.0f}" if stage == "t3" else ""
        lines.append(
            f"{title:8}{now.values[f'{stage}_streams']:9.0f}{now.values[f'{stage}_batch_size']:8.0f}"
            f"{100 * busy / seconds:7.0f} %{made / seconds:11.1f}{factor:>18}{waiting:>9}"
        )
    lines += [
        "",
        f"jobs       {now.values['jobs_queued']:.0f} queued, {grown('job_pieces') / seconds:.2f} pieces a second",
    ]
    for stage, title in _STAGES:
        if allocated := now.values[f"vram_allocated_bytes/{stage}"]:
            lines.append(f"{title:8} {allocated / 2**30:.2f} GiB of its device's memory")
    return "\n".join(lines)


def quantile(before: Snapshot, now: Snapshot, name: str, q: float) -> float | None:
    """Of what a histogram has seen in between, linear within a bucket as in Prometheus; None where it saw nothing."""
    bounds = sorted(now.buckets[name])
    new = {bound: now.buckets[name][bound] - before.buckets[name][bound] for bound in bounds}
    if not bounds or new[bounds[-1]] <= 0:
        return None
    wanted, low, below = q * new[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if new[bound] >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (new[bound] - below)
        low, below = bound, new[bound]
    return low


def addresses(discovery: Path = DISCOVERY) -> list[str]:
    """Where the nodes of the Ray cluster of this machine export metrics. Raises NoMetrics."""
    try:
        found = [target for group in json.loads(discovery.read_text()) for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoMetrics(
            f"{discovery} does not say where Ray exports metrics ({error}): name it with --metrics HOST:PORT."
        ) from error
    return [f"http://{target}/metrics" for target in found]


def snapshot(urls: Sequence[str]) -> tuple[Snapshot, list[str]]:
    """Of the nodes that answer, and those that do not. Raises NoMetrics where none does."""
    pages, silent, why = [], [], None
    for url in urls:
        try:
            answer = requests.get(url, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            pages.append(answer.text)
        except requests.RequestException as error:
            silent.append(url)
            why = error
    if not pages:
        raise NoMetrics(f"No metrics from {', '.join(urls)}: {why}. Does the service run?") from why
    return Snapshot.of(pages, time.monotonic()), silent


def run(metrics: Sequence[str], period_s: float, times: int | None) -> None:
    """Show a frame every so often, `times` of them or until interrupted. Raises NoMetrics."""
    urls = [f"http://{address}/metrics" for address in metrics] or addresses()
    first, were_silent = snapshot(urls)
    seen, shown = deque([first]), 0
    while times is None or shown < times:
        time.sleep(period_s)
        now, silent = snapshot(urls)
        if silent != were_silent:  # sums of other nodes: no difference of them means anything
            seen.clear()
            were_silent = silent
        seen.append(now)
        while len(seen) > 2 and now.at - seen[1].at >= _WINDOW_S:
            seen.popleft()
        told = frame(seen[0], now) + "".join(f"\nno answer from {url}" for url in silent)
        print((_CLEAR if sys.stdout.isatty() else "") + told, flush=True)
        shown += 1


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
