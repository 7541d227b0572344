"""python -m benchmarks overhead: what HTTP and Ray add to the engine, beside a model whose steps take a fixed time.

The engine alone runs in this process, the service in its own (`serve run`), in turns; both with `dummy:timed`, whose
steps sleep, so that the two do not take the processor from each other, and without the watermark.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import requests
import torch

from benchmarks import conditions
from benchmarks.e2e import TEXT, load, speak, timed, together
from benchmarks.measure import Measured, Rounds, Spread, in_turns, ratio, spread
from benchmarks.quality_http import hear
from benchmarks.report import Column, Report, Row, measured, scaled
from benchmarks.subject import RESULTS, Subject
from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from loadtest.playback import PCM_BYTES_PER_SECOND

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as it is started": {},
    "tuned": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0"},
    "tuned, gRPC": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    "tuned, HAProxy": {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    },
    "tuned, gRPC, HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
"""Of the service's processes (docs/operations.md)."""
SWITCHES: dict[str, Any] = {
    "watermark": False,
    "t3": {"max_streams": 16},
    "s3gen": {"admission": "places", "hurry_s": None},
}
ENGINE = "engine"

COLUMNS = (
    Column("environment", "Ray"),
    Column("streams", "streams at once"),
    Column("engine_first_s", "first audio, engine alone, ms", scaled(1e3)),
    Column("http_first_s", "over HTTP, ms", scaled(1e3)),
    Column("added_s", "added, ms", scaled(1e3)),
    Column("engine_rate", "audio seconds a second, engine alone", measured),
    Column("http_rate", "over HTTP", measured),
    Column("rate_ratio", "HTTP's over the engine's", measured),
)


def speak_over_http(url: str, text: str, max_new_tokens: int, seed: int) -> Measured:
    """Time one stream by a connection of its own, from the request on, as `e2e.speak` times one of the engine."""
    with requests.Session() as session:
        playback, _ = hear(session, url, text, seed, max_new_tokens)
    took = time.perf_counter() - playback.begin
    first = took if playback.first_at is None else playback.first_at - playback.begin
    return timed(first, took, playback.bytes / PCM_BYTES_PER_SECOND)


def compare(tts: OptimizedChatterboxTTS, url: str, options: argparse.Namespace) -> tuple[list[Row], dict[str, Rounds]]:
    """Rows for one stream and for many at once, and the rounds behind them."""
    ways: dict[str, Callable[[int], Measured]] = {
        ENGINE: partial(speak, tts, options.text, options.tokens),
        "http": partial(speak_over_http, url, options.text, options.tokens),
    }
    rows, rounds = [], {}
    for streams in (1, options.streams):
        variants = {name: partial(together, one, streams) for name, one in ways.items()}
        made = in_turns(variants, options.repeats, warm_up=2, title=f"{streams} at once")
        rounds[str(streams)] = made
        pairs = zip(made["http"], made[ENGINE], strict=True)
        added = [theirs["first_audio_s"] - own["first_audio_s"] for theirs, own in pairs]
        rows.append(
            {
                "streams": streams,
                "engine_first_s": spread(made[ENGINE], "first_audio_s"),
                "http_first_s": spread(made["http"], "first_audio_s"),
                "added_s": Spread.of(added),
                "engine_rate": Spread.of([1 / one["rtf"] for one in made[ENGINE]]),
                "http_rate": Spread.of([1 / one["rtf"] for one in made["http"]]),
                "rate_ratio": ratio(made[ENGINE], made["http"], "rtf"),
            }
        )
    return rows, rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="dummy:timed", help="default: %(default)s")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--tokens", type=int, default=125, help="at most so many; 25 a second (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=8, help="beside one, so many at once (default: %(default)s)")
    parser.add_argument(
        "--environment", choices=ENVIRONMENTS, action="append", help="default: all, one after the other"
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds that count (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the raw JSON (default: %(default)s)")
    parser.add_argument("--date", help="stands in the conditions instead of now")


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    from loadtest.local_service import LocalService

    config = EngineConfig.profile("balanced", **SWITCHES)
    switches = tuple(f"{name}={json.dumps(value)}" for name, value in SWITCHES.items())
    given = Subject(options.model, torch.device("cpu"), "balanced", switches, config)
    told = conditions.gather(given, options.repeats, options.date, tokens=options.tokens, characters=len(options.text))
    tts = load(given)
    rows: list[Row] = []
    rounds: dict[str, dict[str, Rounds]] = {}
    for name in options.environment or ENVIRONMENTS:
        service = LocalService(model=options.model, device="cpu", switches=SWITCHES)
        service.environment |= ENVIRONMENTS[name]
        with service:
            made, rounds[name] = compare(tts, service.url, options)
        rows += [{"environment": name, **row} for row in made]
    tts.close()
    Report("overhead", told, COLUMNS, rows, rounds).emit(options.output)
