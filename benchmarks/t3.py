"""python -m benchmarks t3: how fast T3 makes speech tokens, against chatterbox-tts and against what memory allows.

The time of a token is that of steady decoding: streams are started together, and the clock runs between two of their
steps, once every prompt is prefilled. Prefill is told apart, as the time to the first token.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks import bandwidth, conditions, prompts, subject
from benchmarks.ceilings import StepFloor, rows_a_stream
from benchmarks.measure import Measured, Spread, in_turns, ratio, spread
from benchmarks.report import Column, Report, Row, file_name, gigabytes, measured, number, percent, scaled
from benchmarks.subject import Subject
from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.stages import T3Stage
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.types import TOKEN_RATE

_SETTLE = 4
"""Steps after the last prompt's prefill that are not measured."""
_SLACK = 64
"""Tokens asked for beyond those measured, so that no stream ends before the clock stops."""
_PATIENCE_S = 1200.0
REFERENCE = "chatterbox-tts"

COLUMNS = (
    Column("variant", "T3"),
    Column("step_s", "ms a step", scaled(1e3)),
    Column("tokens_a_second", "tokens/s, all", measured),
    Column("tokens_a_second_and_stream", "tokens/s, each", measured),
    Column("rtf", "real-time factor of a stream", measured),
    Column("ratio", "tokens/s of all over chatterbox-tts's", scaled(1.0, "x")),
    Column("first_token_s", "first token, ms", scaled(1e3)),
    Column("step_bytes", "read a step", gigabytes),
    Column("ceiling_step_s", "ceiling, ms a step", lambda value: number(1e3 * value)),
    Column("share", "of the ceiling", percent),
    Column("kv_bytes_a_stream", "KV a stream", lambda value: f"{number(value / 1e6)} MB"),
)


class Decoding:
    """Streams decoded side by side on a stage of their own."""

    def __init__(self, given: Subject, checkpoint: Checkpoint, positions: int, tokens: int, streams: int) -> None:
        self.voice = subject.voice_of(checkpoint)
        self.params = checkpoint.spec.sampling.model_copy(update={"max_new_tokens": _SETTLE + tokens + _SLACK})
        self.rows = rows_a_stream(checkpoint.spec.t3, self.params.cfg_weight)
        self.tokens = tokens
        self._language = checkpoint.spec.language
        begin = positions - _SETTLE - tokens // 2
        self.texts = [prompts.of_positions(checkpoint, begin, index) for index in range(streams)]
        self._check_length(checkpoint)
        self.config = roomy(given, streams, positions, tokens).config
        self.stage = T3Stage(checkpoint, self.config, given.device)

    def run(self, streams: int) -> Measured:
        """Start so many streams, and time their steps. Raises EngineDead, InvalidRequest."""
        engine = self.stage.engine
        with self.started(streams) as first:
            begin, counted = time.perf_counter(), engine.tokens
            self.wait(counted + self.tokens * streams, streams)
            took, made = time.perf_counter() - begin, engine.tokens - counted
            if engine.running < streams:
                raise InvalidRequest("A stream ended before the clock stopped: lower --tokens.", "tokens")
        return {"step_s": took * streams / made, "tokens_a_second": made / took, "first_token_s": first}

    @contextmanager
    def started(self, streams: int) -> Iterator[float]:
        """So many streams that decode side by side, until the context ends.

        Yields the seconds until as many tokens were sampled as there are streams. Raises EngineDead.
        """
        engine = self.stage.engine
        before, begin = engine.tokens, time.perf_counter()
        mailboxes = [self._speak(index) for index in range(streams)]
        try:
            until(engine, lambda: engine.tokens >= before + streams)
            first = time.perf_counter() - begin
            until(engine, lambda: engine.batch == streams)
            self.wait(engine.tokens + _SETTLE * streams, streams)
            yield first
        finally:
            for mailbox in mailboxes:
                mailbox.close()
            until(engine, lambda: engine.running + engine.waiting == 0)

    def wait(self, tokens: int, streams: int) -> None:
        """Until the engine has sampled so many in all, or one of the streams has ended."""
        engine = self.stage.engine
        until(engine, lambda: engine.tokens >= tokens or engine.running < streams)

    def _speak(self, index: int) -> Mailbox[int]:
        params = self.params.model_copy(update={"seed": index})
        return self.stage.speak(self.texts[index], self.voice, params, self._language)

    def _check_length(self, checkpoint: Checkpoint) -> None:
        shortest = min(self.texts, key=len)
        wanted = checkpoint.tokens_wanted(shortest)
        if wanted is not None and wanted < _SETTLE + self.tokens + 1:
            raise InvalidRequest(
                f"{checkpoint.model} speaks {wanted} tokens for the prompt of this length: lower --tokens "
                "or raise --positions.", "tokens",
            )  # fmt: skip


def roomy(given: Subject, streams: int, positions: int, tokens: int) -> Subject:
    """The subject with places for so many streams, all prefilled at once so that they decode side by side."""
    switches = []
    if given.config.t3.max_streams < streams:
        switches.append(f"t3.max_streams={streams}")
    if (given.config.t3.max_positions or 0) < positions + tokens + _SLACK:
        switches.append(f"t3.max_positions={positions + tokens + _SLACK}")
    if streams > 1:
        switches.append(f"t3.prefill_positions={2 * streams * positions}")
    return given.changed(*switches)


def until(engine: T3Engine, met: Callable[[], bool]) -> None:
    """Wait for something that the engine's thread brings about. Raises EngineDead."""
    end = time.monotonic() + _PATIENCE_S
    while not met():
        engine.check_alive()
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened in {_PATIENCE_S:g} s")
        time.sleep(2e-3)  # seldom enough to leave the cores to the engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--streams", type=counts, default=(1, 16), metavar="N,N", help="at the same time (1,16)")
    parser.add_argument("--tokens", type=int, default=32, help="steps measured a round (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=300,
                        help="context of a row in the middle of those steps (default: %(default)s)")  # fmt: skip
    parser.add_argument("--reference-tokens", type=int, default=8, metavar="N",
                        help="steps of chatterbox-tts measured a round (default: %(default)s)")  # fmt: skip
    parser.add_argument("--no-reference", action="store_true", help="without chatterbox-tts")


def counts(text: str) -> tuple[int, ...]:
    """1,16 -> (1, 16). Raises ValueError."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    given = subject.of(options)
    checkpoint = given.checkpoint()
    told = conditions.gather(given, options.repeats, options.date, tokens=options.tokens, positions=options.positions)
    decoding = Decoding(given, checkpoint, options.positions, options.tokens, max(options.streams))
    told["t3"] = f"{str(decoding.stage.dtype).removeprefix('torch.')} {given.config.t3.quantization}"
    names = {f"{count} stream{'s' * (count > 1)}": count for count in options.streams}
    for count in options.streams:
        decoding.run(count)
    told["weight_bytes"] = decoding.stage.engine.weight_bytes
    told["peak_bytes"] = conditions.peak_bytes(given.device)  # before the reference takes its own
    reads = [bandwidth.memory(given.device)]
    variants: dict[str, Callable[[], Measured]] = {name: partial(decoding.run, count) for name, count in names.items()}
    if not options.no_reference:
        from benchmarks.reference import ReferenceT3

        reference = ReferenceT3(checkpoint, given.device)
        variants[REFERENCE] = partial(reference.measure, decoding.texts[0], decoding.voice, options.reference_tokens)
        variants[REFERENCE]()
    rounds = in_turns(variants, options.repeats, warm_up=0, title="T3")  # each has run once above
    reads.append(bandwidth.memory(given.device))
    read = max(reads, key=lambda rate: rate.per_second)  # a ceiling: others' work can only lower what is measured
    told["bandwidth"], told["bandwidth_how"] = read.per_second, read.how
    rows = [_row(name, count, rounds, decoding, options.positions, read) for name, count in names.items()]
    if REFERENCE in rounds:
        rows.append({"variant": REFERENCE, **_speed(rounds[REFERENCE], 1)})
    report = Report(file_name("t3", given.model, given.device.type), told, COLUMNS, rows, rounds)
    report.emit(options.output)
    decoding.stage.engine.stop()


def _speed(rounds: list[Measured], streams: int) -> dict[str, Spread]:
    each = [measured["tokens_a_second"] / streams for measured in rounds]
    return {
        "step_s": spread(rounds, "step_s"),
        "tokens_a_second": spread(rounds, "tokens_a_second"),
        "tokens_a_second_and_stream": Spread.of(each),
        "rtf": Spread.of([TOKEN_RATE / value for value in each]),
        "first_token_s": spread(rounds, "first_token_s"),
    }


def _row(
    name: str,
    streams: int,
    rounds: dict[str, list[Measured]],
    decoding: Decoding,
    positions: int,
    read: bandwidth.Rate,
) -> Row:
    engine = decoding.stage.engine
    row: Row = {"variant": name, **_speed(rounds[name], streams)}
    if REFERENCE in rounds:
        row["ratio"] = ratio(rounds[name], rounds[REFERENCE], "tokens_a_second")
    floor = StepFloor.of(
        engine.weight_bytes, engine.position_bytes, streams * decoding.rows, positions, read.per_second
    )
    row |= {
        "step_bytes": floor.weight_bytes + floor.kv_bytes,
        "ceiling_step_s": floor.seconds,
        "share": floor.seconds / row["step_s"].median,
        "kv_bytes_a_stream": engine.position_bytes * decoding.rows * positions,
    }
    return row
