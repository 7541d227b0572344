"""python -m benchmarks t3: how fast T3 makes speech tokens, against chatterbox-tts and against what memory allows.

The time of a token is that of steady decoding: streams are started once, and each round times some more of their steps.
Between rounds they pause, so that whatever takes the other turn has the machine. Prefill is told apart, as the time to
the first token.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks import bandwidth, conditions, prompts, subject
from benchmarks.ceilings import StepFloor, rows_a_stream
from benchmarks.measure import Measured, Rounds, Spread, in_turns, ratio, spread
from benchmarks.report import Column, Report, Row, file_name, gigabytes, measured, number, percent, scaled
from benchmarks.subject import Subject
from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.stages import T3Stage
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.types import TOKEN_RATE, VALID_TOKENS

_SLACK = 64
"""Steps that a stream has room for beyond those expected: how many of its tokens are valid is a matter of chance."""
_PATIENCE_S = 1200.0
_STILL_S = 0.02
"""Longer than a step on a GPU, where one may still run when the streams are paused."""
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


class Running:
    """Streams that decode side by side, a round at a time; between rounds their mailboxes are full, and they pause."""

    def __init__(self, engine: T3Engine, mailboxes: Sequence[Mailbox[int]], tokens: int, first_token_s: float) -> None:
        """Comes back once all of them pause. Raises EngineDead, InvalidRequest."""
        self.first_token_s = first_token_s
        """Seconds until as many tokens were sampled as there are streams."""
        self._engine = engine
        self._mailboxes = mailboxes
        self._tokens = tokens
        until(engine, lambda: engine.running == len(mailboxes))
        self._pause()

    def round(self) -> Measured:
        """Time the steps until the first stream is full again: all of them have taken part in each of those.

        Raises EngineDead, InvalidRequest.
        """
        engine = self._engine
        begin, counted = time.perf_counter(), engine.tokens
        for mailbox in self._mailboxes:  # far quicker than the engine's thread gets hold of the interpreter
            mailbox.read(mailbox.unread)
        self._wait(any)
        took, made = time.perf_counter() - begin, engine.tokens - counted
        self._pause()
        return {"step_s": took * len(self._mailboxes) / made, "tokens_a_second": made / took}

    def _pause(self) -> None:
        """Until no stream moves any more."""
        self._wait(all)
        seen = -1
        while seen != self._engine.tokens:
            seen = self._engine.tokens
            time.sleep(_STILL_S)

    def _wait(self, of_them: Callable[[Iterable[bool]], bool]) -> None:
        """Until any, or all, of the mailboxes are full."""
        engine, streams = self._engine, len(self._mailboxes)

        def met() -> bool:
            return engine.running < streams or of_them(mailbox.full(self._tokens) for mailbox in self._mailboxes)

        until(engine, met)
        if engine.running < streams:
            raise InvalidRequest("A stream ended before its rounds were over: lower --tokens or --repeats.", "tokens")


class Decoding:
    """Streams decoded side by side on a stage of their own.

    A round goes on until a stream has `tokens` valid tokens more, and the context grows with each. The prompts are as
    long as it takes for `positions` to be the context in the middle of the `rounds` of one start.
    """

    def __init__(
        self, given: Subject, checkpoint: Checkpoint, positions: int, tokens: int, streams: int, rounds: int
    ) -> None:
        """Raises InvalidRequest where no prompt is right for so many rounds."""
        self.voice = subject.voice_of(checkpoint)
        self.tokens = tokens
        self.rounds = rounds
        self._language = checkpoint.spec.language
        steps = steps_a_round(checkpoint, tokens)
        room = (1 + rounds) * steps + _SLACK  # the mailboxes are filled once before the first round
        self.params = checkpoint.spec.sampling.model_copy(update={"max_new_tokens": room})
        self.rows = rows_a_stream(checkpoint.spec.t3, self.params.cfg_weight)
        begin = positions - steps - rounds * steps // 2
        self.texts = [prompts.of_positions(checkpoint, begin, index) for index in range(streams)]
        self._check_length(checkpoint)
        self.config = roomy(given, streams, begin, begin + room).changed(f"t3.queue_tokens={tokens}").config
        self.stage = T3Stage(checkpoint, self.config, given.device)
        self._captures = given.device.type == "cuda"

    def warm_up(self, streams: int) -> None:
        """Pay the first calls: of a prefill and of steps, on a GPU of every length, each of which has its graph."""
        with self.started(streams) as running:
            for _ in range(self.rounds if self._captures else 0):
                running.round()

    def first_token(self, streams: int) -> Measured:
        """Start so many streams, and end them at their first tokens. Raises EngineDead."""
        with self._speaking(streams) as (_, first):
            return {"first_token_s": first}

    @contextmanager
    def started(self, streams: int) -> Iterator[Running]:
        """So many streams, prefilled and paused, with room for `rounds`; they end with the context.

        Raises EngineDead, InvalidRequest.
        """
        with self._speaking(streams) as (mailboxes, first):
            yield Running(self.stage.engine, mailboxes, self.tokens, first)

    @contextmanager
    def _speaking(self, streams: int) -> Iterator[tuple[list[Mailbox[int]], float]]:
        """So many streams, and the seconds until as many tokens were sampled."""
        engine = self.stage.engine
        before, begin = engine.tokens, time.perf_counter()
        mailboxes = [self._speak(index) for index in range(streams)]
        try:
            until(engine, lambda: engine.tokens >= before + streams)
            yield mailboxes, time.perf_counter() - begin
        finally:
            for mailbox in mailboxes:
                mailbox.close()
            until(engine, lambda: engine.running + engine.waiting == 0)

    def _speak(self, index: int) -> Mailbox[int]:
        params = self.params.model_copy(update={"seed": index})
        return self.stage.speak(self.texts[index], self.voice, params, self._language)

    def _check_length(self, checkpoint: Checkpoint) -> None:
        wanted = checkpoint.tokens_wanted(min(self.texts, key=len))
        most = (1 + self.rounds) * (self.tokens + 1)
        if wanted is not None and wanted <= most:
            raise InvalidRequest(
                f"{checkpoint.model} speaks {wanted} tokens for the prompt of this length, and {self.rounds} rounds "
                f"need {most}: lower --tokens or --repeats, or raise --positions.", "tokens",
            )  # fmt: skip


def steps_a_round(checkpoint: Checkpoint, tokens: int) -> int:
    """Steps in which a stream is expected to get so many valid tokens, and the one by which a GPU is ahead.

    Random weights draw from the whole vocabulary, of which a fifth may not be speech.
    """
    spec = checkpoint.spec
    drawn_from = VALID_TOKENS if spec.random_weights is None else max(VALID_TOKENS, spec.t3.speech_vocab)
    return math.ceil(tokens * drawn_from / VALID_TOKENS) + 1


def roomy(given: Subject, streams: int, prompt: int, positions: int) -> Subject:
    """The subject with places for so many streams, all prefilled at once so that they decode side by side."""
    switches = []
    if given.config.t3.max_streams < streams:
        switches.append(f"t3.max_streams={streams}")
    if (given.config.t3.max_positions or 0) < positions:
        switches.append(f"t3.max_positions={positions}")
    if streams > 1:
        switches.append(f"t3.prefill_positions={2 * streams * prompt}")
    return given.changed(*switches)


def until(engine: T3Engine, met: Callable[[], bool]) -> None:
    """Wait for something that the engine's thread brings about. Raises EngineDead.

    It looks after each two-hundredth of the time waited so far: what is timed so is right to half a percent, and the
    cores are left to the engine.
    """
    begin = time.monotonic()
    while not met():
        engine.check_alive()
        waited = time.monotonic() - begin
        if waited > _PATIENCE_S:
            raise TimeoutError(f"nothing happened in {_PATIENCE_S:g} s")
        time.sleep(min(max(waited / 200, 2e-4), 5e-3))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--streams", type=counts, default=(1, 16), metavar="N,N", help="at the same time (1,16)")
    parser.add_argument("--tokens", type=int, default=32, help="of a stream a round (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=300,
                        help="context of a row in the middle of all rounds (default: %(default)s)")  # fmt: skip
    parser.add_argument("--first-repeats", type=int, default=2, metavar="N",
                        help="starts of which the first token is timed (default: %(default)s)")  # fmt: skip
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
    told = conditions.gather(
        given, options.repeats, options.date, tokens=options.tokens, positions=options.positions,
        first_repeats=options.first_repeats,
    )  # fmt: skip
    most = max(options.streams)
    decoding = Decoding(given, checkpoint, options.positions, options.tokens, most, options.repeats)
    told["t3"] = f"{str(decoding.stage.dtype).removeprefix('torch.')} {given.config.t3.quantization}"
    names = {f"{count} stream{'s' * (count > 1)}": count for count in options.streams}
    for count in options.streams:
        decoding.warm_up(count)
    told["weight_bytes"] = decoding.stage.engine.weight_bytes
    told["peak_bytes"] = conditions.peak_bytes(given.device)  # before the reference takes its own
    reads = [bandwidth.memory(given.device)]
    others: dict[str, Callable[[], Measured]] = {}
    if not options.no_reference:
        from benchmarks.reference import ReferenceT3

        reference = ReferenceT3(checkpoint, given.device)
        others[REFERENCE] = partial(reference.measure, decoding.texts[0], decoding.voice, options.reference_tokens)
        others[REFERENCE]()
    rounds: Rounds = {}
    for name, count in names.items():  # one after the other: a paused stream is computed along with those that run
        firsts = [decoding.first_token(count) for _ in range(options.first_repeats - 1)]
        with decoding.started(count) as running:
            firsts.append({"first_token_s": running.first_token_s})
            measured = in_turns({name: running.round, **others}, options.repeats, warm_up=0, title=name)
        rounds |= {name: measured[name], _first(name): firsts}
        if others:
            rounds[_beside(name)] = measured[REFERENCE]
    reads.append(bandwidth.memory(given.device))
    read = max(reads, key=lambda rate: rate.per_second)  # a ceiling: others' work can only lower what is measured
    told["bandwidth"], told["bandwidth_how"] = read.per_second, read.how
    rows = [_row(name, count, rounds, decoding, options.positions, read) for name, count in names.items()]
    if others:
        theirs = [measured for name in names for measured in rounds[_beside(name)]]
        rows.append({"variant": REFERENCE, **_speed(theirs, theirs, 1)})
    report = Report(file_name("t3", given.model, given.device.type), told, COLUMNS, rows, rounds)
    report.emit(options.output)
    decoding.stage.engine.stop()


def _first(name: str) -> str:
    return f"{name}, first token"


def _beside(name: str) -> str:
    return f"{REFERENCE} beside {name}"


def _speed(rounds: list[Measured], firsts: list[Measured], streams: int) -> dict[str, Spread]:
    each = [measured["tokens_a_second"] / streams for measured in rounds]
    return {
        "step_s": spread(rounds, "step_s"),
        "tokens_a_second": spread(rounds, "tokens_a_second"),
        "tokens_a_second_and_stream": Spread.of(each),
        "rtf": Spread.of([TOKEN_RATE / value for value in each]),
        "first_token_s": spread(firsts, "first_token_s"),
    }


def _row(
    name: str,
    streams: int,
    rounds: Rounds,
    decoding: Decoding,
    positions: int,
    read: bandwidth.Rate,
) -> Row:
    engine = decoding.stage.engine
    row: Row = {"variant": name, **_speed(rounds[name], rounds[_first(name)], streams)}
    if _beside(name) in rounds:
        row["ratio"] = ratio(rounds[name], rounds[_beside(name)], "tokens_a_second")
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
