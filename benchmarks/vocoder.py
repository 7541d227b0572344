"""python -m benchmarks vocoder: HiFT and Vocos, alone and behind the flow, on the mels of one utterance.

Offline is one call; streamed is a call for each chunk of the schedule, as the flow hands them over.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import conditions, subject
from benchmarks.ceilings import hift_operations, vocos_operations
from benchmarks.measure import Measured, in_turns, ratio, spread, timed_audio
from benchmarks.report import Column, Report, Row, file_name, measured, number, scaled
from benchmarks.s3gen import WHOLE, Speaking, random_mel
from benchmarks.streaming import cuts
from benchmarks.subject import Subject
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE

VOCODERS = ("hift", "vocos")
OFFLINE, STREAMED, BEHIND_FLOW = "offline", "streamed", "whole S3Gen, offline"

COLUMNS = (
    Column("variant", "vocoder"),
    Column("ms", "ms a second of audio", measured),
    Column("ratio", "speed over HiFT's", scaled(1.0, "x")),
    Column("operations", "to compute a second", lambda value: f"{number(value / 1e9)} GFLOP"),
    Column("parameters", "parameters", lambda value: f"{number(value / 1e6)} M"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser, model="demo")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of an utterance (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure and report. Raises InvalidRequest, ModelUnavailable."""
    given = subject.of(options)
    speaking = {name: _speaking(given, name) for name in VOCODERS}
    spec = next(iter(speaking.values())).stage.model.spec
    mel = random_mel(spec, options.seconds)[0]
    schedule = given.config.s3gen.chunk_schedule
    variants: dict[str, Callable[[], Measured]] = {}
    for name, own in speaking.items():
        for case, cut in ((OFFLINE, WHOLE), (STREAMED, schedule)):
            call = partial(_vocoded, own.stage.model, mel, cut)
            variants[f"{name}, {case}"] = partial(timed_audio, call, given.device)
        variants[f"{name}, {BEHIND_FLOW}"] = partial(own.run, options.seconds, 1)
    told = conditions.gather(given, options.repeats, options.date, seconds=options.seconds, schedule=schedule)
    rounds = in_turns(variants, options.repeats, title="Vocoders")
    rows: list[Row] = []
    for variant, own_rounds in rounds.items():
        name, _, case = variant.partition(", ")
        row: Row = {"variant": variant, "ms": spread([{"ms": 1e3 * each["rtf"]} for each in own_rounds], "ms")}
        if name != VOCODERS[0]:
            row["ratio"] = ratio(rounds[f"{VOCODERS[0]}, {case}"], own_rounds, "rtf")
        if case == OFFLINE:
            network = speaking[name].stage.model.vocoder.network
            counted = vocos_operations if isinstance(network, Vocos) else hift_operations
            row["operations"] = counted(network.spec, spec.mel_bins, FRAMES_PER_TOKEN * TOKEN_RATE)
            row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        rows.append(row)
    Report(file_name("vocoder", given.model, given.device.type), told, COLUMNS, rows, rounds).emit(options.output)
    for own in speaking.values():
        own.stage.engine.stop()


def _speaking(given: Subject, vocoder: str) -> Speaking:
    own = given.changed(f"s3gen.vocoder={vocoder}")
    return Speaking(own, own.checkpoint(), 1)


def _vocoded(model: S3GenModel, mel: Tensor, schedule: tuple[int, ...]) -> Tensor:
    """The samples (480 F,) of a mel (80, F), a call for each chunk."""
    stream = model.vocoder.open(0)
    parts: list[Tensor] = []
    with torch.inference_mode():
        for begin, end, final in cuts(mel.shape[1] // FRAMES_PER_TOKEN, schedule, model.spec.encoder.lookahead):
            frames = mel[:, FRAMES_PER_TOKEN * begin : FRAMES_PER_TOKEN * end].to(model.device)
            parts += model.vocoder.advance([stream], [frames], [final])
    return torch.cat(parts)
