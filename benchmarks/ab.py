"""python -m benchmarks ab: every switch by itself and in company: speed, memory, and difference in what comes out.

First each switch alone on the profile `reference`, then each profile, then `balanced` without each of its switches.
Every variant runs in a process of its own beside one of its base, a round of one after a round of the other.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import conditions, render, subject
from benchmarks.ab_variants import Stage, Variant, variants
from benchmarks.ab_worker import Process, Sizes
from benchmarks.measure import Measured, in_turns, ratio, spread
from benchmarks.report import Report, Row, file_name
from benchmarks.s3gen import speech_tokens
from benchmarks.subject import Subject

_PIECE = 250
"""Tokens that are scored in one go: 10 s of speech."""
_SEEDS = (1, 2)
_SAME_TOKENS = 60
MAIN = {"t3": "step_s", "s3gen": "rtf", "e2e": "rtf"}
"""By stage, the measure whose ratio is the speed."""
FIRST = {"t3": "first_token_s", "e2e": "first_audio_s"}


class Base:
    """The process that variants are compared with, and what came out of it."""

    def __init__(self, given: Subject, stage: Stage, sizes: Sizes, kl_positions: int) -> None:
        self.process = Process(given, stage, sizes)
        self.peak_bytes = 0
        self.process.measure()
        self.peak_bytes = self.process.call("peak_bytes")
        self._stage = stage
        self._pieces: list[list[int]] = []
        self._scores: list[np.ndarray] = []
        self._spoken: list[list[int]] = []
        self._mels: list[np.ndarray] = []
        if stage == "t3":
            self._spoken = [self.process.call("spoken", seed, _SAME_TOKENS) for seed in _SEEDS]
            self._pieces = self._teacher(given, kl_positions)
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
    parser.add_argument("--tokens", type=int, default=24, help="steps of T3 a round (default: %(default)s)")
    parser.add_argument("--positions", type=int, default=300, help="T3's context (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of an utterance of S3Gen (default: %(default)s)")
    parser.add_argument("--e2e-tokens", type=int, default=60, help="of a text (default: %(default)s)")
    parser.add_argument("--kl-positions", type=int, default=2000, help="teacher-forced (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=subject.RESULTS)
    parser.add_argument("--date")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md as well")


def run(options: argparse.Namespace) -> None:
    """Measure every variant that can be measured here, and report."""
    asked = argparse.Namespace(**vars(options), profile="reference", switch=[])
    given = subject.of(asked)
    sizes = Sizes(options.tokens, options.positions, options.seconds, options.e2e_tokens, torch.get_num_threads())
    told = conditions.gather(
        given, options.repeats, options.date, tokens=sizes.tokens, positions=sizes.positions, seconds=sizes.seconds,
        e2e_tokens=sizes.e2e_tokens, kl_positions=options.kl_positions,
    )  # fmt: skip
    del told["profile"], told["switches"]
    chosen = [variant for variant in variants(given.device.type) if _wanted(variant, options.only)]
    rows: list[Row] = []
    rounds: dict[str, Any] = {}
    with tqdm(total=len(chosen), desc="A/B", disable=None) as bar:
        for stage, base in dict.fromkeys((variant.stage, variant.base) for variant in chosen):
            group = [variant for variant in chosen if (variant.stage, variant.base) == (stage, base)]
            found, measured = _group(given, stage, base, group, sizes, options, bar.update)
            rows += found
            rounds |= measured
    order = {(variant.section, variant.name, variant.stage): index for index, variant in enumerate(chosen)}
    rows.sort(key=lambda row: order[row["section"], row["name"], row["stage"]])
    name = file_name("ab", given.model, given.device.type)
    Report(name, told, render.COLUMNS, rows, rounds, shown=render.shown).emit(options.output)
    if options.write_docs:
        render.write_page(options.output)


def _wanted(variant: Variant, words: list[str]) -> bool:
    return not words or any(word in (variant.section, variant.stage) or word in variant.name for word in words)


def _group(
    given: Subject,
    stage: Stage,
    base: str,
    group: list[Variant],
    sizes: Sizes,
    options: argparse.Namespace,
    done: Callable[[], Any],
) -> tuple[list[Row], dict[str, Any]]:
    """The variants that share a base and a stage, one after the other."""
    rows: list[Row] = []
    rounds: dict[str, Any] = {}
    lab: Base | None = None
    try:
        for variant in group:
            row: Row = {"section": variant.section, "name": variant.name, "stage": stage, "base": base}
            if variant.waits is None:
                lab = lab or Base(_subject(given, base, ()), stage, sizes, options.kl_positions)
                own, measured = _pair(lab, variant, given, sizes, options)
                row |= own
                rounds[f"{variant.section} {stage} {variant.name}"] = measured
            else:
                row["waits"] = variant.waits
            rows.append(row)
            done()
    finally:
        if lab is not None:
            lab.process.close()
    return rows, rounds


def _pair(
    base: Base, variant: Variant, given: Subject, sizes: Sizes, options: argparse.Namespace
) -> tuple[Row, dict[str, list[Measured]]]:
    """A variant beside its base. One that does not run here says why, and has no figures."""
    stage = variant.stage
    try:
        process = Process(_subject(given, variant.profile, variant.switches), stage, sizes)
    except RuntimeError as error:
        return {"note": _sentence(error)}, {}
    try:
        process.measure()
        fallbacks = " ".join(process.call("fallbacks"))
        if fallbacks and variant.section != "profile":  # it would be its base, measured twice
            return {"note": _sentence(fallbacks)}, {}
        peak = process.call("peak_bytes")
        rounds = in_turns({"base": base.process.measure, "own": process.measure}, options.repeats, title=variant.name)
        row: Row = {
            "value": spread(rounds["own"], MAIN[stage]),
            "speed": ratio(rounds["base"], rounds["own"], MAIN[stage]),
            "peak_bytes": peak,
            "base_peak_bytes": base.peak_bytes,
            **base.differences(process),
        }
        if stage in FIRST:
            row["first"] = spread(rounds["own"], FIRST[stage])
            row["first_speed"] = ratio(rounds["base"], rounds["own"], FIRST[stage])
        if process.first_call is not None and base.process.first_call is not None:
            row["first_call_s"] = process.first_call["first_audio_s"]
            row["base_first_call_s"] = base.process.first_call["first_audio_s"]
        if fallbacks:
            row["note"] = _sentence(fallbacks)
    except RuntimeError as error:
        return {"note": _sentence(error)}, {}
    finally:
        process.close()
    return row, rounds


def _subject(given: Subject, profile: str, switches: tuple[str, ...]) -> Subject:
    return Subject(given.model, given.device, profile, switches, subject.configured(profile, switches))


def _sentence(said: object) -> str:
    return " ".join(str(said).split())[:200]
