"""python -m benchmarks streaming: how far streamed audio is from offline audio, by chunk schedule.

The flow's attention sees its whole window, so a frame made before the rest of the utterance is known differs from the
frame an offline pass makes. This measures the difference: the same tokens, the same noise, cut by several schedules.
"""

import argparse
from collections.abc import Iterator

import torch
from tqdm import tqdm

from benchmarks import conditions, subject
from benchmarks.measure import Measured, Rounds, seconds, spread
from benchmarks.report import Column, Report, Row, file_name, scaled
from benchmarks.s3gen import WHOLE, speech_tokens
from chatterbox_engine.accel.device import s3gen_dtype
from chatterbox_engine.checkpoint import S3GEN_FILE
from chatterbox_engine.s3gen.flow import FlowPast, flow_noise
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE, S3GenVoice

_WARM_UP_TOKENS = 50
_DEFAULT = (25, 25, 50, 100)
_CASES: tuple[tuple[tuple[int, ...], int | None, bool], ...] = (
    (_DEFAULT, None, False),
    ((10, 20, 40, 80), None, False),
    ((25,), None, False),
    ((50,), None, False),
    ((25,), 50, False),
    ((25,), 25, False),
    (WHOLE, None, True),
    (_DEFAULT, None, True),
    ((25,), None, True),
    ((10,), None, True),
)
"""Chunk schedules, the context window where it is bounded, and whether chunks go on from what is kept."""

COLUMNS = (
    Column("variant", "chunk schedule (tokens), earlier tokens seen again, or chunked"),
    Column("distance", "mean absolute difference of the log-mel", scaled(1.0)),
    Column("cost", "S3Gen's time over offline", scaled(1.0, "x")),
)


def cuts(tokens: int, schedule: tuple[int, ...], lookahead: int) -> Iterator[tuple[int, int, bool]]:
    """Where each chunk begins and ends, and whether it is the last: only then no look-ahead follows it."""
    done = chunk = 0
    while done < tokens:
        size = schedule[min(chunk, len(schedule) - 1)]
        final = tokens - done < size + lookahead
        end = tokens if final else done + size
        yield done, end, final
        done, chunk = end, chunk + 1


def mel(model: S3GenModel, voice: S3GenVoice, tokens: list[int], seed: int, schedule: tuple[int, ...],
        window: int | None) -> torch.Tensor:  # fmt: skip
    """The mel (80, frames) that a stream cut by `schedule` commits, chunk after chunk, each of which is spoken."""
    prompt, lookahead = voice.prompt.shape[1], model.spec.encoder.lookahead
    speaking = model.vocoder.open(seed)
    parts: list[torch.Tensor] = []
    for done, end, final in cuts(len(tokens), schedule, lookahead):
        start = 0 if window is None else max(0, done - window)
        own = torch.tensor([tokens[start : end if final else end + lookahead]])
        noise = flow_noise(
            torch.tensor([seed]), FRAMES_PER_TOKEN * prompt, FRAMES_PER_TOKEN * start,
            FRAMES_PER_TOKEN * own.shape[1], model.spec.mel_bins,
        )  # fmt: skip
        row = torch.cat((voice.prompt, own), dim=1)
        inputs = row.to(model.device), *_conditions(model, voice), noise.to(model.device)
        with torch.inference_mode():
            made = model.flow(*inputs, final=final)[0, :, FRAMES_PER_TOKEN * (done - start) :]
            model.vocoder.advance([speaking], [made], [final])
        parts.append(made.cpu())
    return torch.cat(parts, dim=1)


def chunked_mel(model: S3GenModel, voice: S3GenVoice, tokens: list[int], seed: int, schedule: tuple[int, ...],
                heard: FlowPast) -> torch.Tensor:  # fmt: skip
    """The same with `flow_attention: chunked`; `heard` is what is kept of the voice."""
    prompt, lookahead = FRAMES_PER_TOKEN * voice.prompt.shape[1], model.spec.encoder.lookahead
    past = heard.copy()
    feat, speaker = _conditions(model, voice)
    speaking = model.vocoder.open(seed)
    parts: list[torch.Tensor] = []
    for done, end, final in cuts(len(tokens), schedule, lookahead):
        own = torch.tensor(tokens[done : end if final else end + lookahead])
        own = torch.cat((voice.prompt[0, past.frames // FRAMES_PER_TOKEN :], own)).to(model.device)
        noise = flow_noise(
            torch.tensor([seed]), prompt, FRAMES_PER_TOKEN * done, FRAMES_PER_TOKEN * (end - done), model.spec.mel_bins
        )[:, :, min(prompt, past.frames) :]  # fmt: skip
        with torch.inference_mode():
            (made,) = model.flow.go_on([own], [final], feat, speaker, noise.to(model.device), [past])
            model.vocoder.advance([speaking], [made], [final])
        parts.append(made.cpu())
    return torch.cat(parts, dim=1)


def _conditions(model: S3GenModel, voice: S3GenVoice) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt's mel and the speaker, as the model takes them."""
    return voice.feat.to(model.device, model.dtype), voice.speaker.to(model.device, model.dtype)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser, model="demo")
    parser.set_defaults(repeats=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of an utterance (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Measure one utterance a round, and report."""
    given = subject.of(options)
    checkpoint = given.checkpoint()
    weights = checkpoint.weights(S3GEN_FILE)
    dtype, switches = s3gen_dtype(given.config.s3gen.precision, given.device), given.config.s3gen
    model = S3GenModel(checkpoint.spec.s3gen, weights, dtype, given.device, switches, checkpoint.vocos(switches))
    voice = subject.voice_of(checkpoint).for_s3gen()
    told = conditions.gather(given, options.repeats, options.date, seconds=options.seconds)
    told["dtype"] = str(dtype).removeprefix("torch.")
    rounds: Rounds = {}
    for seed in tqdm(range(options.repeats), "Streaming", disable=None):
        tokens = speech_tokens(seed, round(options.seconds * TOKEN_RATE)).tolist()
        if seed == 0:
            mel(model, voice, tokens[:_WARM_UP_TOKENS], seed, WHOLE, None)
        for name, measured in _utterance(model, voice, tokens, seed).items():
            rounds.setdefault(name, []).append(measured)
    rows: list[Row] = [{"variant": name, **{key: spread(own, key) for key in own[0]}} for name, own in rounds.items()]
    Report(file_name("streaming", given.model, given.device.type), told, COLUMNS, rows, rounds).emit(options.output)


def _utterance(model: S3GenModel, voice: S3GenVoice, tokens: list[int], seed: int) -> dict[str, Measured]:
    """By schedule: the distance from one offline pass, and the time over it."""
    made: list[torch.Tensor] = []
    with torch.inference_mode():
        heard = model.flow.hear(voice.prompt.to(model.device), *_conditions(model, voice))

    def timed(schedule: tuple[int, ...], window: int | None, chunked: bool) -> float:
        def run() -> None:
            given = model, voice, tokens, seed, schedule
            made.append(chunked_mel(*given, heard) if chunked else mel(*given, window))

        return seconds(run, model.device)

    took = timed(WHOLE, None, False)
    offline = made[0]
    other = mel(model, voice, tokens, seed + 1000, WHOLE, None)
    found: dict[str, Measured] = {"another seed": {"distance": float((other - offline).abs().mean())}}
    for schedule, window, chunked in _CASES:
        cost = timed(schedule, window, chunked) / took
        distance = float((made[-1] - offline).abs().mean())
        cut = "one" if schedule == WHOLE else str(list(schedule))
        again = "chunked" if chunked else "all" if window is None else str(window)
        found[f"{cut}, {again}"] = {"distance": distance, "cost": cost}
    return found
