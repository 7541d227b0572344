"""python -m benchmarks syncs: what the host waits for inside T3's steps, by torch's profiler.

A step must not wait for the device: a wait for a stream or for the whole device, or a copy to the host's ordinary
memory, which waits by itself, would leave the GPU idle. Waiting for an event is told apart: that is how the tokens of
the step before are collected, while the next one runs.
"""

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import conditions, subject
from benchmarks.report import Column, Report, file_name, rate
from benchmarks.t3 import Decoding

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "DtoH (Device -> Pageable)")
_EVENTS = ("cudaEventSynchronize",)
_LAUNCHES = ("cudaGraphLaunch", "cudaLaunchKernel", "cuLaunchKernel")

COLUMNS = (
    Column("variant", "T3"),
    Column("steps", "steps"),
    Column("waits", "waits inside a step", rate()),
    Column("events", "waits for an earlier step, a step", rate()),
    Column("launches", "launches a step", rate()),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=50, help="steps to look at (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=300)


def run(options: argparse.Namespace) -> None:
    """Profile and report."""
    given = subject.of(options)
    decoding = Decoding(given, given.checkpoint(), options.positions, options.tokens, options.streams, rounds=1)
    decoding.warm_up(options.streams)
    calls, steps = _calls(decoding, options.streams)
    row = {
        "variant": f"{options.streams} stream{'s' * (options.streams > 1)}",
        "steps": steps,
        "waits": _count(calls, _WAITS) / steps,
        "events": _count(calls, _EVENTS) / steps,
        "launches": _count(calls, _LAUNCHES) / steps,
    }
    told = conditions.gather(given, 1, options.date, positions=options.positions)
    name = file_name("syncs", given.model, given.device.type)
    Report(name, told, COLUMNS, [row], {"calls": dict(calls)}).emit(options.output)
    decoding.stage.engine.stop()


def _calls(decoding: Decoding, streams: int) -> tuple[Counter[str], int]:
    """CUDA calls of the engine's thread and what ran on the device, by name, and over how many steps.

    The profiler's own end waits for the device, on another thread. The engine's is the one that launches most.
    """
    engine = decoding.stage.engine
    activities = [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]
    with decoding.started(streams) as running, profile(activities=activities, acc_events=True) as profiler:
        start = engine.tokens
        running.round()
        made = engine.tokens - start
    events = profiler.events()
    launching = Counter(event.device_resource_id for event in events if event.name.endswith(_LAUNCHES))
    engines = launching.most_common(1)[0][0] if launching else None
    own = (event for event in events if event.device_type.name != "CPU" or event.device_resource_id == engines)
    return Counter(event.name for event in own), made // streams


def _count(calls: Counter[str], names: tuple[str, ...]) -> int:
    """Calls whose name ends with one of `names`; cudaMemcpy is the one that waits, cudaMemcpyAsync does not."""
    return sum(count for name, count in calls.items() if name.endswith(names))
