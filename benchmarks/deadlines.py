"""python -m benchmarks deadlines: what S3Gen's order, its hurry and its admission do for hundreds of listeners.

In simulated time: it says what the policies are worth, not what a machine can do. The engine's own code decides.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import conditions, subject
from benchmarks.report import Column, Report, number
from benchmarks.simulation import UNREAD, Devices, Heard, Line, Listener, Policy, Simulation
from chatterbox_engine.config import EngineConfig, S3GenSwitches
from chatterbox_engine.s3gen.capacity import Capacity
from chatterbox_engine.s3gen.mels import CALL_TOKENS, alike
from chatterbox_engine.s3gen.scheduler import Work, batch
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.types import SAMPLE_RATE, TOKEN_RATE

MAX_BATCH = 16
HURRY_S = S3GenSwitches().hurry_s
S3GEN_BOUND = Devices(t3=Line(0.004, 0.0001), s3gen=Line(0.02, 0.0004), chunked=True)
T3_BOUND = Devices(t3=Line(0.01, 0.0005), s3gen=Line(0.01, 0.00002), chunked=True)
WINDOWS = Devices(t3=Line(0.004, 0.0001), s3gen=Line(0.01, 0.00002), chunked=False)
SCENES = (
    ("S3Gen is the limit, at it", S3GEN_BOUND, 60.0),
    ("S3Gen is the limit, twice it", S3GEN_BOUND, 30.0),
    ("T3 is the limit, beyond it", T3_BOUND, 60.0),
    ("all before computed again with each chunk", WINDOWS, 20.0),
)
"""What each is called, the devices, and the seconds in which the listeners come."""
COLUMNS = (
    Column("scene", "service"),
    Column("policy", "policy"),
    Column("admitted", "let in"),
    Column("stalled", "of these stalled"),
    Column("stalled_s", "silence, s", number),
    Column("first_p50_s", "first audio p50, s", number),
    Column("first_p99_s", "p99", number),
    Column("carried", "audio s a second", number),
    Column("batch", "streams a call", number),
)


def crowd(count: int, span_s: float, seed: int = 0) -> list[Listener]:
    """Listeners who come at random within `span_s`; half of the utterances are 4.3 to 14 s long, none beyond 40 s."""
    draw = np.random.default_rng(seed)
    arrivals = np.sort(draw.uniform(0, span_s, count))
    lengths = np.clip(draw.lognormal(5.3, 0.6, count), TOKEN_RATE, 40 * TOKEN_RATE).astype(int)
    return [Listener(float(at), int(tokens)) for at, tokens in zip(arrivals, lengths, strict=True)]


def engines_own(devices: Devices) -> Policy:
    """`scheduler.batch`, knowing what a call takes."""
    slack = CALL_TOKENS if devices.chunked else 0
    return lambda work, now: batch(work, now, MAX_BATCH, lambda item, first: alike(item, first, slack), devices.s3gen)


def led_by(devices: Devices, place: Callable[[SpeechStream], float]) -> Policy:
    """Whoever has the lowest `place` leads each call."""
    slack = CALL_TOKENS if devices.chunked else 0

    def policy(work: list[Work], now: float) -> tuple[list[Work], float]:
        ordered = sorted(work, key=lambda item: place(item.stream))
        return [item for item in ordered if alike(item, ordered[0], slack)][:MAX_BATCH], float("inf")

    return policy


@dataclass(frozen=True)
class Outcome:
    """What became of a crowd."""

    admitted: int
    stalled: int
    stalled_s: float
    first_p50_s: float
    first_p99_s: float
    carried: float
    """Seconds of audio made a second."""
    batch: float
    """Streams a call, in the mean."""


def outcome(simulation: Simulation, heard: Sequence[Heard]) -> Outcome:
    """Of a simulation that has run."""
    first = [one.first_audio_s for one in heard if one.first_audio_s is not None]
    return Outcome(
        len(first),
        sum(one.stalls > 0 for one in heard),
        sum(one.stalled_s for one in heard),
        float(np.percentile(first, 50)),
        float(np.percentile(first, 99)),
        simulation.samples / SAMPLE_RATE / simulation.now,
        simulation.chunks / simulation.calls,
    )


def policies(devices: Devices) -> dict[str, Simulation]:
    """A service for each, the next one with one thing more."""
    own = engines_own(devices)
    return {
        "by arrival": Simulation(devices, led_by(devices, lambda stream: stream.opened)),
        "who runs dry first": Simulation(devices, led_by(devices, lambda stream: stream.due)),
        "and fuller calls where there is time": Simulation(devices, own),
        "and hurry": Simulation(devices, own, hurry_s=HURRY_S),
        "and admission: the engine": Simulation(devices, own, hurry_s=HURRY_S, capacity=Capacity(UNREAD)),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--output", type=Path, default=subject.RESULTS)
    parser.add_argument("--date")


def run(options: argparse.Namespace) -> None:
    """Simulate every policy in every scene, and report."""
    given = subject.Subject("none", torch.device("cpu"), "balanced", (), EngineConfig.profile())
    rows = []
    for name, devices, span in tqdm(SCENES, "Simulating", disable=None):
        listeners = crowd(options.streams, span)
        for policy, simulation in policies(devices).items():
            made = outcome(simulation, simulation.run(listeners))
            rows.append({"scene": name, "policy": policy, **vars(made)})
    told = conditions.gather(given, 1, options.date, streams=options.streams)
    Report("deadlines", told, COLUMNS, rows, {}).emit(options.output)
