"""python -m benchmarks e2e: text to audio through OptimizedChatterboxTTS, timed where the caller stands."""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks import conditions, subject
from benchmarks.measure import Measured, in_turns, ratio, spread
from benchmarks.report import Column, Report, Row, file_name, measured, scaled
from benchmarks.subject import Subject
from benchmarks.t3 import REFERENCE
from chatterbox_engine import OptimizedChatterboxTTS
from chatterbox_engine.types import SAMPLE_RATE

TEXT = "It was a calm and cloudless morning when the first ship of the year came into the harbour."

Speak = Callable[[OptimizedChatterboxTTS, str, int, int], Measured]

COLUMNS = (
    Column("variant", "text to audio"),
    Column("first_audio_s", "first audio, ms", scaled(1e3)),
    Column("seconds", "seconds", measured),
    Column("audio_s", "audio, s", measured),
    Column("rtf", "real-time factor", measured),
    Column("ratio", "speed over chatterbox-tts's", scaled(1.0, "x")),
)


def load(given: Subject) -> OptimizedChatterboxTTS:
    """The model with the configuration's warm-up done, as a service has it when it calls itself ready."""
    build = OptimizedChatterboxTTS.from_pretrained
    if given.config.warmup != "none":
        build = OptimizedChatterboxTTS.from_pretrained_with_warmup
    return build(str(given.device), given.config, model=given.model)


def timed(first_audio_s: float, seconds: float, audio_s: float) -> Measured:
    """What is measured of a stream, or of many at once."""
    return {"first_audio_s": first_audio_s, "seconds": seconds, "audio_s": audio_s, "rtf": seconds / audio_s}


def speak(tts: OptimizedChatterboxTTS, text: str, max_new_tokens: int, seed: int = 0) -> Measured:
    """Time one stream; each second is one that the caller waited."""
    begin = time.perf_counter()
    first, samples = None, 0
    for chunk, _ in tts.generate_stream(text, seed=seed, max_new_tokens=max_new_tokens):
        first = first or time.perf_counter() - begin
        samples += chunk.shape[1]
    took = time.perf_counter() - begin
    audio = samples / SAMPLE_RATE
    return timed(first or took, took, audio)


def speak_whole(tts: OptimizedChatterboxTTS, text: str, max_new_tokens: int, seed: int = 0) -> Measured:
    """Time one text in one pass: its first audio comes with its last, as chatterbox-tts's does."""
    begin = time.perf_counter()
    audio = tts.generate(text, seed=seed, max_new_tokens=max_new_tokens).shape[1] / SAMPLE_RATE
    took = time.perf_counter() - begin
    return timed(took, took, audio)


def together(one: Callable[[int], Measured], streams: int) -> Measured:
    """Time so many at once, each with a seed of its own: seconds until the last one's end, over the audio of all."""
    with ThreadPoolExecutor(streams) as pool:
        begin = time.perf_counter()
        made = list(pool.map(one, range(streams)))
        took = time.perf_counter() - begin
    audio = sum(own["audio_s"] for own in made)
    first = statistics.median(own["first_audio_s"] for own in made)
    return timed(first, took, audio)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--tokens", type=int, default=125, help="at most so many; 25 a second (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=1, help="beside one stream, so many at once")
    parser.add_argument("--reference-e2e", action="store_true",
                        help="beside chatterbox-tts, which takes minutes at full size on a CPU")  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    given = subject.of(options)
    told = conditions.gather(given, options.repeats, options.date, tokens=options.tokens, characters=len(options.text))
    begin = time.perf_counter()
    tts = load(given)
    told["load_s"] = time.perf_counter() - begin
    asked = tts, options.text, options.tokens
    variants: dict[str, Callable[[], Measured]] = {
        "streamed": partial(speak, *asked), "in one pass": partial(speak_whole, *asked)
    }  # fmt: skip
    if options.streams > 1:
        many: dict[str, Speak] = {"streamed": speak, "in one pass": speak_whole}
        for how, one in many.items():
            variants[f"{options.streams} at once, {how}"] = partial(together, partial(one, *asked), options.streams)
    told["first_call_first_audio_s"] = variants["streamed"]()["first_audio_s"]
    told["peak_bytes"] = conditions.peak_bytes(given.device)  # before the reference takes its own
    if options.reference_e2e:
        from benchmarks.reference import ReferenceTTS

        checkpoint = given.checkpoint()
        reference = ReferenceTTS(checkpoint, given.device)
        voice = subject.voice_of(checkpoint)
        variants[REFERENCE] = partial(reference.measure, options.text, voice, options.tokens)
        variants[REFERENCE]()
    rounds = in_turns(variants, options.repeats, warm_up=0, title="Text to audio")  # each has run once above
    rows: list[Row] = [{"variant": name, **{key: spread(own, key) for key in own[0]}} for name, own in rounds.items()]
    for row in rows if REFERENCE in rounds else ():
        if row["variant"] != REFERENCE:
            row["ratio"] = ratio(rounds[REFERENCE], rounds[row["variant"]], "rtf")
    Report(file_name("e2e", given.model, given.device.type), told, COLUMNS, rows, rounds).emit(options.output)
    tts.close()
