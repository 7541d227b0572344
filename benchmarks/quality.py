"""python -m benchmarks quality: how well it speaks: words, naturalness, voice and stops, by profile and switch.

The group `quality` listens (`uv sync --group quality`): Whisper tiny.en hears the words, NISQA-TTS says how natural
they sound, Resemblyzer's encoder whose voice it is; docs/quality.md has the definitions. The file has each variant's
row as soon as it is scored. With --http a service speaks instead, and the client's own times stand beside.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import conditions, sentences, subject, teacher
from benchmarks.fallbacks import Fallbacks
from benchmarks.quality_http import Client
from benchmarks.quality_variants import VOICINGS, Voicing, chosen
from benchmarks.reading import Reading, Speak
from benchmarks.report import Column, Report, Row, file_name, number, percent, plain_name, scaled
from benchmarks.scoring import Score
from benchmarks.subject import configured
from benchmarks.wer import difference
from chatterbox_engine import OptimizedChatterboxTTS
from chatterbox_engine.errors import EngineDead, InvalidRequest

TEACHER, SERVICE = "teacher", "http"
"""Rows that no configuration makes."""
_FIRST_TOKENS = 50


def _interval(value: list[float]) -> str:
    low, high = (f"{100 * end:.1f}" for end in value)
    return f"{low}..{high}"


def _beyond(value: list[float]) -> str:
    middle, low, high = (f"{100 * each:+.1f}" for each in value)
    return f"{middle} ({low}..{high})"


_WORDS = (
    Column("variant", "variant"),
    Column("wer", "WER", percent),
    Column("wer_interval", "95 % interval", _interval),
    Column("kinds", "words wrong, added, missing"),
    Column("words", "of", lambda value: f"{value:,}"),
)
_SOUND = (
    Column("mos", "NISQA-TTS", number),
    Column("likeness", "likeness of voice", number),
    Column("length_ratio", "length over the teacher's", number),
    Column("wrong_stops", "stops early, late, never"),
    Column("clips", "clips"),
)
COLUMNS = (
    *_WORDS,
    Column("base", "beside"),
    Column("beyond", "WER beyond its, points", _beyond),
    *_SOUND,
    Column("note", "said"),
)
SERVICE_COLUMNS = (
    *_WORDS,
    *_SOUND,
    Column("first_audio_s", "first audio, ms", scaled(1e3)),
    Column("rtf", "real-time factor", scaled(1.0)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="demo, a folder or a hub id (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    named = ",".join(voicing.name for voicing in VOICINGS)
    parser.add_argument("--variants", metavar="A,B,...", help=f"none: only the teacher. Default: {named}")
    parser.add_argument("--switch", action="append", default=[], metavar="KEY=VALUE",
                        help="of EngineConfig, in every variant; may be given again")  # fmt: skip
    parser.add_argument("--set", choices=sentences.SETS, default="choosing",
                        help="`scoring` is held out: never choose by it (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sentences", type=int, metavar="N", help="so many of the set (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="readings of each sentence (default: %(default)s)")
    parser.add_argument("--teacher", action="store_true", help="a row of the teacher's own speech: the upper bound")
    parser.add_argument("--voice", type=Path, metavar="CLIP", help="whose voice it should be (default: the teacher's)")
    parser.add_argument("--streams", type=int, default=1, help="spoken at the same time (default: %(default)s)")
    parser.add_argument("--audio", type=Path, metavar="FOLDER", help="keep every clip there, as WAV")
    parser.add_argument("--http", metavar="URL", help="a service speaks, one stream at a time, in place of variants")
    parser.add_argument("--output", type=Path, default=subject.RESULTS, help="folder of the raw JSON (%(default)s)")
    parser.add_argument("--date", help="stands in the conditions instead of now")


def run(options: argparse.Namespace) -> None:
    """Speak, listen, report. Raises InvalidRequest, ModelUnavailable."""
    for name in ("seeds", "streams", "sentences"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InvalidRequest(f"--{name} is at least 1.", name)
    voicings = chosen(options.variants)
    reading = Reading(options.set, options.sentences, options.seeds, voice=options.voice)
    if options.http is None:
        _of_variants(options, reading, voicings)
    else:
        _of_service(options, reading)


def _of_variants(options: argparse.Namespace, reading: Reading, voicings: list[Voicing]) -> None:
    given = subject.of(argparse.Namespace(**vars(options), profile="balanced"))
    told = conditions.gather(given, options.seeds, options.date, streams=options.streams, **reading.conditions(),
                             note=given.checkpoint().spec.note)  # fmt: skip
    del told["profile"], told["repeats"]
    if not voicings:
        del told["model"], told["note"]
    name = file_name(f"quality-{options.set}", given.model if voicings else TEACHER, given.device.type)
    rows = Rows(Report(name, told, COLUMNS, [], {}, shown=shown), reading, options)
    if options.teacher:
        rows.add({"variant": TEACHER}, _teacher)
    for voicing in voicings:
        row: Row = {"variant": voicing.name, "base": voicing.base}
        with closing(Fallbacks()) as fallbacks:
            try:
                config = configured(voicing.profile, (*given.switches, *voicing.switches))
                tts = OptimizedChatterboxTTS.from_pretrained(str(given.device), config, model=given.model)
                with closing(tts):
                    if fallbacks.said and voicing.switches:  # it would be its base, listened to twice
                        row["note"] = " ".join(fallbacks.said)
                        rows.add(row)
                    else:
                        rows.add(row, partial(_say, tts, voicing.streamed), at_once=options.streams)
            except (RuntimeError, EngineDead) as error:
                rows.add({**row, "note": " ".join(str(error).split())[:200]})
    rows.report.emit(options.output)


def _of_service(options: argparse.Namespace, reading: Reading) -> None:
    client = Client(options.http)
    served = client.model()
    stages = served["stages"]
    told = {
        "date": options.date or conditions.now(),
        **conditions.commit(),
        **conditions.machine(torch.device("cpu")),
        "model": served["id"],
        **{stage: f"{own['device']} {own['dtype']}" for stage, own in stages.items()},
        **reading.conditions(),
        "note": served["note"],
    }
    device = torch.device(stages["t3"]["device"])
    name = file_name(f"quality-http-{options.set}", served["id"], device.type)
    rows = Rows(Report(name, told, SERVICE_COLUMNS, [], {}, shown=shown), reading, options)
    client.speak("Good morning.", 0, _FIRST_TOKENS)  # whatever the first request costs is not the voice's
    client.forget()
    rows.add({"variant": SERVICE}, client.speak, after=client.times)
    rows.report.emit(options.output)


class Rows:
    """The rows of one reading, written to their file one by one."""

    def __init__(self, report: Report, reading: Reading, options: argparse.Namespace) -> None:
        self.report = report
        self._reading = reading
        self._output: Path = options.output
        self._keep: Path | None = options.audio
        self._scores: dict[str, Score] = {}

    def add(
        self, row: Row, speak: Speak | None = None, *, at_once: int = 1, after: Callable[[], Row] | None = None
    ) -> None:
        """A variant's row, with what is heard where it speaks; `after` tells more of it once it has spoken."""
        name, base = row["variant"], row.get("base")
        if speak is not None:
            keep = None if self._keep is None else self._keep / plain_name(name)
            own = self._scores[name] = self._reading.of(speak, name, at_once=at_once, keep=keep)
            row |= own.as_dict()
            if base in self._scores:
                row["beyond"] = list(difference(own.by_sentence, self._scores[base].by_sentence))
            self.report.rounds = {**self.report.rounds, name: self._reading.rounds(own)}
        row |= {} if after is None else after()
        self.report.rows.append(row)
        self.report.write(self._output)


def shown(row: Row) -> Row:
    """A row with what several of its values say together."""
    if "wer" not in row:
        return row
    kinds = ", ".join(str(row[kind]) for kind in ("substitutions", "insertions", "deletions"))
    stops = ", ".join(str(row["stops"][kind]) for kind in ("early", "late", "runaway"))
    return {**row, "kinds": kinds, "wrong_stops": stops}


def _say(tts: OptimizedChatterboxTTS, streamed: bool, text: str, seed: int, max_new_tokens: int) -> np.ndarray:
    """(samples,) float32 at 24 kHz."""
    if not streamed:
        return tts.generate(text, seed=seed, max_new_tokens=max_new_tokens)[0].numpy()
    chunks = [chunk[0] for chunk, _ in tts.generate_stream(text, seed=seed, max_new_tokens=max_new_tokens)]
    return torch.cat([torch.zeros(0), *chunks]).numpy()


def _teacher(text: str, seed: int, _: int) -> np.ndarray:
    return teacher.spoken(text, seed)
