"""python -m benchmarks ab: every switch by itself and in company: speed, memory, and difference in what comes out.

First each switch alone on the profile `reference`, then each profile, then `balanced` without each of its switches.
Every variant runs in a process of its own beside one of its base, a round of one after a round of the other. The file
has each variant's row as soon as it is measured, and --resume goes on where a run was interrupted.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import conditions, render, subject
from benchmarks.ab_record import Record
from benchmarks.ab_variants import Stage, Variant, variants
from benchmarks.ab_worker import Process, Sizes
from benchmarks.measure import Rounds, in_turns, ratio, spread
from benchmarks.report import Row, file_name
from benchmarks.s3gen import speech_tokens
from benchmarks.subject import Subject

_PIECE = 250
"""Tokens that are scored in one go: 10 s of speech."""
_SEEDS = (1, 2)
_SAME_TOKENS = 24
MAIN = {"t3": "step_s", "s3gen": "rtf", "e2e": "rtf"}
"""By stage, the measure whose ratio is the speed."""
FIRST = {"t3": "first_token_s", "e2e": "first_audio_s"}


class Base:
    """The process that variants are compared with, and what came out of it."""

    def __init__(self, given: Subject, stage: Stage, sizes: Sizes, options: argparse.Namespace) -> None:
        """Raises RuntimeError where it does not run."""
        self.process = Process(given, stage, sizes, options.patience)
        self.first_call = self.process.call("warm_up")
        self.peak_bytes = self.process.call("peak_bytes")
        self._stage = stage
        self._pieces: list[list[int]] = []
        self._scores: list[np.ndarray] = []
        self._spoken: list[list[int]] = []
        self._mels: list[np.ndarray] = []
        if stage == "t3":
            self._spoken = [self.process.call("spoken", seed, _SAME_TOKENS) for seed in _SEEDS]
            self._pieces = self._teacher(given, options.kl_positions)
            self._scores = [self.process.call("score", piece) for piece in self._pieces]
        elif stage == "s3gen":
            self._mels = [self.process.call("mel", seed) for seed in _SEEDS]

    def differences(self, other: Process) -> Row:
        """How far the other's output is from this one's."""
        if self._stage == "t3":
            same = sum(other.call("spoken", seed, _SAME_TOKENS) == own
                       for seed, own in zip(_SEEDS, self._spoken, strict=True))  # fmt: skip
            pairs = zip(self._pieces, self._scores, strict=True)
            divergence = np.concatenate([kl(own, other.call("score", piece)) for piece, own in pairs])
            return {
                "same_tokens": f"{same} of {len(_SEEDS)}",
                "kl": float(divergence.mean()),
                "kl_worst": float(divergence.max()),
                "kl_positions": len(divergence),
            }
        if self._stage == "s3gen":
            pairs_of_mels = [(own, other.call("mel", seed)) for seed, own in zip(_SEEDS, self._mels, strict=True)]
            return {"mel": float(np.mean([np.abs(own - theirs).mean() for own, theirs in pairs_of_mels]))}
        return {}

    def _teacher(self, given: Subject, positions: int) -> list[list[int]]:
        """Tokens to be scored: random ones for random weights, which have no better; else this variant's own speech."""
        sizes = [min(_PIECE, positions - done) for done in range(0, positions, _PIECE)]
        if given.checkpoint().spec.random_weights is not None:
            return [speech_tokens(index, size).tolist() for index, size in enumerate(sizes)]
        return [self.process.call("spoken", index, size) for index, size in enumerate(sizes)]


def kl(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence in nats of each position: log-probabilities (n, V) twice -> (n,)."""
    wide = own.astype(np.float64)
    return (np.exp(wide) * (wide - other)).sum(axis=-1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="dummy:chatterbox", help="demo, dummy:NAME, a folder or a hub id")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--only", action="append", default=[], metavar="WORD",
                        help="variants whose name, section or stage contains it; may be given again")  # fmt: skip
    parser.add_argument("--skip", action="append", default=[], metavar="WORD",
                        help="all but those, in the same way")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep the file's rows, and measure what it does not have")
    parser.add_argument("--tokens", type=int, default=24, help="of T3 a round (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=300,
                        help="T3's context in the middle of all rounds (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=2.0, help="of an utterance of S3Gen (default: %(default)s)")
    parser.add_argument("--e2e-tokens", type=int, default=60, help="of a text (default: %(default)s)")
    parser.add_argument("--kl-positions", type=int, default=2000, help="teacher-forced (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of T3 (default: %(default)s)")
    parser.add_argument("--s3gen-repeats", type=int, default=2, help="rounds of S3Gen (default: %(default)s)")
    parser.add_argument("--e2e-repeats", type=int, default=2, help="rounds of both stages (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S",
                        help="seconds that an answer may take; then the variant is given up (%(default)g)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=subject.RESULTS)
    parser.add_argument("--date")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md as well")


def run(options: argparse.Namespace) -> None:
    """Measure every variant that can be measured here, and report. Raises InvalidRequest, RuntimeError."""
    asked = argparse.Namespace(**vars(options), profile="reference", switch=[])
    given = subject.of(asked)
    sizes = Sizes(
        options.tokens, options.positions, options.repeats, options.seconds, options.e2e_tokens, torch.get_num_threads()
    )
    told = conditions.gather(
        given, options.repeats, options.date, s3gen_repeats=options.s3gen_repeats, e2e_repeats=options.e2e_repeats,
        tokens=sizes.tokens, positions=sizes.positions, seconds=sizes.seconds, e2e_tokens=sizes.e2e_tokens,
        kl_positions=options.kl_positions,
    )  # fmt: skip
    del told["profile"], told["switches"]
    found = variants(given.device.type)
    record = Record(file_name("ab", given.model, given.device.type), told, found, options.output)
    if options.resume:
        record.resume()
    chosen = [variant for variant in found if _wanted(variant, options.only, options.skip) and not record.has(variant)]
    with tqdm(total=len(chosen), desc="A/B", disable=None) as bar:

        def done(row: Row, rounds: Rounds) -> None:
            record.add(row, rounds)
            bar.update()

        for stage, base in dict.fromkeys((variant.stage, variant.base) for variant in chosen):
            group = [variant for variant in chosen if (variant.stage, variant.base) == (stage, base)]
            _group(given, stage, base, group, sizes, options, done)
    record.report.emit(options.output)
    if options.write_docs:
        render.write_page(options.output)


def _wanted(variant: Variant, only: list[str], skip: list[str]) -> bool:
    def among(words: list[str]) -> bool:
        return any(word in (variant.section, variant.stage) or word in variant.name for word in words)

    return (not only or among(only)) and not among(skip)


def _group(
    given: Subject,
    stage: Stage,
    base: str,
    group: list[Variant],
    sizes: Sizes,
    options: argparse.Namespace,
    done: Callable[[Row, Rounds], None],
) -> None:
    """The variants that share a base and a stage, one after the other. Raises RuntimeError where the base fails."""
    lab: Base | None = None
    try:
        for variant in group:
            row: Row = {"section": variant.section, "name": variant.name, "stage": stage, "base": base}
            row |= {"date": options.date or conditions.now(), **conditions.commit()}
            rounds: Rounds = {}
            if variant.waits is not None:
                row["waits"] = variant.waits
            else:
                if lab is None or not lab.process.alive:  # it went down with the variant before
                    lab = Base(_subject(given, base, ()), stage, sizes, options)
                own, rounds = _pair(lab, variant, given, sizes, options)
                row |= own
            done(row, rounds)
    finally:
        if lab is not None:
            lab.process.close()


def _pair(
    base: Base, variant: Variant, given: Subject, sizes: Sizes, options: argparse.Namespace
) -> tuple[Row, Rounds]:
    """A variant beside its base. One that does not run here says why, and has no figures."""
    try:
        configuration = _subject(given, variant.profile, variant.switches)
        with closing(Process(configuration, variant.stage, sizes, options.patience)) as process:
            return _compared(base, process, variant, options)
    except RuntimeError as error:
        return {"note": _sentence(error if base.process.alive else f"its base failed: {error}")}, {}


def _compared(base: Base, process: Process, variant: Variant, options: argparse.Namespace) -> tuple[Row, Rounds]:
    """Raises RuntimeError where one of them fails."""
    stage = variant.stage
    first_call = process.call("warm_up")
    fallbacks = " ".join(process.call("fallbacks"))
    if fallbacks and variant.section != "profile":  # it would be its base, measured twice
        return {"note": _sentence(fallbacks)}, {}
    row: Row = {"peak_bytes": process.call("peak_bytes"), "base_peak_bytes": base.peak_bytes}
    pair = {"base": base.process, "own": process}
    rounds: Rounds = {}
    if stage == "t3":
        starts = in_turns({name: partial(each.call, "begin") for name, each in pair.items()}, 1, warm_up=0)
        rounds |= {f"{name} start": measured for name, measured in starts.items()}
    repeats = {"t3": options.repeats, "s3gen": options.s3gen_repeats, "e2e": options.e2e_repeats}[stage]
    rounds |= in_turns({name: each.measure for name, each in pair.items()}, repeats, warm_up=0, title=variant.name)
    row["value"] = spread(rounds["own"], MAIN[stage])
    row["speed"] = ratio(rounds["base"], rounds["own"], MAIN[stage])
    if stage in FIRST:
        own, theirs = (rounds[f"{name} start" if stage == "t3" else name] for name in ("own", "base"))
        row["first"] = spread(own, FIRST[stage])
        row["first_speed"] = ratio(theirs, own, FIRST[stage])
    if stage == "e2e":
        row["first_call_s"], row["base_first_call_s"] = (first[FIRST[stage]] for first in (first_call, base.first_call))
    if stage == "t3":
        for each in pair.values():
            each.call("end")
    row |= base.differences(process)
    if fallbacks:
        row["note"] = _sentence(fallbacks)
    return row, rounds


def _subject(given: Subject, profile: str, switches: tuple[str, ...]) -> Subject:
    return Subject(given.model, given.device, profile, switches, subject.configured(profile, switches))


def _sentence(said: object) -> str:
    return " ".join(str(said).split())[:200]
