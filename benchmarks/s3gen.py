"""python -m benchmarks s3gen: flow and vocoder offline, against chatterbox-tts and against what arithmetic allows.

An utterance is made in one chunk, without the watermark: no streaming, no recomputation.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import bandwidth, conditions, subject
from benchmarks.ceilings import s3gen_operations
from benchmarks.measure import Measured, in_turns, ratio, spread, timed_audio
from benchmarks.report import Column, Report, Row, file_name, measured, number, percent, scaled
from benchmarks.subject import Subject
from benchmarks.t3 import REFERENCE, counts
from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.spec import S3GenSpec
from chatterbox_engine.stages import S3GenStage
from chatterbox_engine.types import FRAMES_PER_TOKEN, SAMPLE_RATE, TOKEN_RATE, VALID_TOKENS

WHOLE = (10**6,)
_VOCODER = "vocoder alone, the longest"
_ATTEMPTS = 5
"""The engine may wake up before the last of a batch is handed over; then all are made again."""
_PATIENCE_S = 1200.0

COLUMNS = (
    Column("variant", "S3Gen"),
    Column("seconds", "seconds", measured),
    Column("rtf", "real-time factor", measured),
    Column("ratio", "speed over chatterbox-tts's", scaled(1.0, "x")),
    Column("operations", "to compute", lambda value: f"{number(value / 1e12)} TFLOP"),
    Column("ceiling_s", "ceiling, s", number),
    Column("share", "of the ceiling", percent),
)


class Speaking:
    """Utterances of speech tokens on a stage of their own."""

    def __init__(self, given: Subject, checkpoint: Checkpoint, batch: int) -> None:
        self.voice = subject.voice_of(checkpoint)
        switches = ["watermark=false"]
        if given.config.s3gen.max_streams < batch:
            switches.append(f"s3gen.max_streams={batch}")
        if given.config.s3gen.max_batch < batch:
            switches.append(f"s3gen.max_batch={batch}")
        self.stage = S3GenStage(checkpoint, given.changed(*switches).config, given.device)

    def run(self, seconds: float, batch: int) -> Measured:
        """Make `batch` utterances of so many seconds in one call of the flow."""
        for _ in range(_ATTEMPTS):
            streams = [self._open(speech_tokens(index, round(seconds * TOKEN_RATE)), 0) for index in range(batch)]
            begin = time.perf_counter()
            for stream in streams:
                _end(stream)
            samples = sum(drain(stream).shape[-1] for stream in streams)
            took = time.perf_counter() - begin
            if self.stage.engine.batch == batch:
                return {"seconds": took, "rtf": took * SAMPLE_RATE / samples}
        raise InvalidRequest(f"{batch} utterances did not come into one call, {_ATTEMPTS} times.", "batch")

    def run_vocoder(self, mel: Tensor) -> Measured:
        """The vocoder alone on mel (1, 80, F), in one call."""
        vocoder, device = self.stage.model.vocoder, self.stage.model.device

        def vocode() -> Tensor:
            with torch.inference_mode():
                (made,) = vocoder.advance([vocoder.open(0)], [mel[0].to(device)], [True])
            return made[None]

        return timed_audio(vocode, device)

    def audio(self, seconds: float, seed: int) -> Tensor:
        """The samples (n,) of one utterance."""
        stream = self._open(speech_tokens(seed, round(seconds * TOKEN_RATE)), seed)
        _end(stream)
        return drain(stream)

    def _open(self, tokens: Tensor, seed: int) -> SpeechStream:
        """An utterance whose end is not said yet, so that nothing of it is made."""
        stream = self.stage.open(self.voice, schedule=WHOLE, paced=False)
        stream.begin_piece(seed, 0.0)
        stream.feed(tokens.tolist(), final=False)
        return stream


def _end(stream: SpeechStream) -> None:
    stream.feed([], final=True)
    stream.finish()


def speech_tokens(seed: int, count: int) -> Tensor:
    """Random valid speech tokens (count,)."""
    return torch.randint(0, VALID_TOKENS, (count,), generator=torch.Generator().manual_seed(seed))


def drain(stream: SpeechStream) -> Tensor:
    """All samples (n,) of a stream. Raises EngineDead."""
    parts, final = [torch.zeros(0)], False
    while not final:
        read, final = stream.audio.read(timeout=_PATIENCE_S)
        parts += [torch.from_numpy(samples) for samples in read]
    return torch.cat(parts)


def lengths(text: str) -> tuple[float, ...]:
    """5,10 -> (5.0, 10.0). Raises ValueError."""
    return tuple(float(part) for part in text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--seconds", type=lengths, default=(5.0, 10.0), metavar="S,S", help="of an utterance (5,10)")
    parser.add_argument("--batch", type=counts, default=(1,), metavar="N,N", help="utterances in one call (1)")
    parser.add_argument("--no-reference", action="store_true", help="without chatterbox-tts")


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    given = subject.of(options)
    checkpoint = given.checkpoint()
    spec, voice = checkpoint.spec.s3gen, subject.voice_of(checkpoint)
    told = conditions.gather(given, options.repeats, options.date, prompt_s=voice.s3gen_prompt.shape[1] / TOKEN_RATE)
    speaking = Speaking(given, checkpoint, max(options.batch))
    told["s3gen"] = str(speaking.stage.dtype).removeprefix("torch.")
    cases = {
        f"{seconds:g} s, batch {batch}": (seconds, batch) for seconds in options.seconds for batch in options.batch
    }
    for case in cases.values():
        speaking.run(*case)
    told["peak_bytes"] = conditions.peak_bytes(given.device)  # before the reference takes its own
    arithmetic = bandwidth.matmul(given.device, speaking.stage.dtype)
    vocos = given.config.s3gen.vocoder == "vocos"
    operations = partial(s3gen_operations, spec, voice.s3gen_prompt.shape[1], vocos=vocos)
    told["operations_a_second"], told["operations_how"] = arithmetic.per_second, arithmetic.how
    variants: dict[str, Callable[[], Measured]] = {name: partial(speaking.run, *case) for name, case in cases.items()}
    if not options.no_reference:
        from benchmarks.reference import ReferenceS3Gen

        reference = ReferenceS3Gen(spec, given.device)
        for seconds in options.seconds:
            tokens = speech_tokens(0, round(seconds * TOKEN_RATE))[None]
            variants[_reference(seconds)] = partial(reference.measure, tokens, voice)
        variants[_reference(options.seconds[0])]()
        mel = random_mel(spec, options.seconds[-1])
        variants[_VOCODER], variants[f"{REFERENCE}'s {_VOCODER}"] = (
            partial(speaking.run_vocoder, mel), partial(reference.measure_hift, mel),
        )  # fmt: skip
        variants[_VOCODER]()
    rounds = in_turns(variants, options.repeats, warm_up=0, title="S3Gen")  # each has run once above
    rows: list[Row] = []
    for name, own in rounds.items():
        row: Row = {"variant": name, "seconds": spread(own, "seconds"), "rtf": spread(own, "rtf")}
        if name in cases:
            seconds, batch = cases[name]
            if _reference(seconds) in rounds:
                row["ratio"] = ratio(rounds[_reference(seconds)], own, "rtf")
            row["operations"] = batch * operations(_spoken(spec, seconds))
            row["ceiling_s"] = row["operations"] / arithmetic.per_second
            row["share"] = row["ceiling_s"] / row["seconds"].median
        if name == _VOCODER:
            row["ratio"] = ratio(rounds[f"{REFERENCE}'s {_VOCODER}"], own, "rtf")
        rows.append(row)
    Report(file_name("s3gen", given.model, given.device.type), told, COLUMNS, rows, rounds).emit(options.output)
    speaking.stage.engine.stop()


def _spoken(spec: S3GenSpec, seconds: float) -> int:
    """Speech tokens of an utterance, with those that the model puts around them."""
    return round(seconds * TOKEN_RATE) + len(spec.opening_tokens) + len(spec.closing_tokens)


def random_mel(spec: S3GenSpec, seconds: float) -> Tensor:
    """(1, 80, F), about as loud as speech."""
    return torch.randn(1, spec.mel_bins, round(seconds * TOKEN_RATE) * FRAMES_PER_TOKEN) - 4.0


def _reference(seconds: float) -> str:
    return f"{REFERENCE}, {seconds:g} s"
