"""Clips of speech and the texts they should speak -> how well they do."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.likeness import likeness
from benchmarks.naturalness import listener
from benchmarks.stops import Stop, stop
from benchmarks.transcriber import transcriber
from benchmarks.wer import WordErrors, compare, interval
from chatterbox_engine.types import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known beforehand of the clip of a text."""

    seconds: float
    """The teacher's."""
    max_new_tokens: int | None = None
    """The limit that the stream had."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip's score. None: not asked for, or too little audio to tell."""

    text: str
    heard: str
    errors: WordErrors
    seconds: float
    mos: float | None = None
    """NISQA-TTS, 1 to 5."""
    likeness: float | None = None
    """Cosine to the wanted voice."""
    length_ratio: float | None = None
    """Over the teacher's length."""
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Of several clips together."""

    clips: tuple[Clip, ...] = field(repr=False)

    @property
    def errors(self) -> WordErrors:
        """Of all clips."""
        return sum((clip.errors for clip in self.clips), WordErrors(0))

    @property
    def wer(self) -> float:
        """Word error rate: all errors over all words."""
        return self.errors.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's 95 % interval."""
        return interval(self.by_sentence)

    @property
    def by_sentence(self) -> list[WordErrors]:
        """Clips of the same text together, in the order in which texts first came."""
        found: dict[str, WordErrors] = {}
        for clip in self.clips:
            found[clip.text] = found.get(clip.text, WordErrors(0)) + clip.errors
        return list(found.values())

    @property
    def stops(self) -> dict[Stop, int]:
        """Clips by where they stopped; all 0 where that was not asked for."""
        kinds: tuple[Stop, ...] = ("good", "early", "late", "runaway")
        return {kind: sum(clip.stop == kind for clip in self.clips) for kind in kinds}

    def worst(self, count: int = 10) -> list[Clip]:
        """The clips with the most errors, to be read."""
        return sorted(self.clips, key=lambda clip: -clip.errors.total)[:count]

    def as_dict(self) -> dict[str, Any]:
        """Without the single clips. What no clip has is left out."""
        errors = self.errors
        found: dict[str, Any] = {
            "wer": self.wer,
            "wer_interval": list(self.interval),
            **asdict(errors),
            "sentences": len(self.by_sentence),
            "clips": len(self.clips),
            "seconds": sum(clip.seconds for clip in self.clips),
            "mos": _mean(clip.mos for clip in self.clips),
            "likeness": _mean(clip.likeness for clip in self.clips),
        }
        ratios = [clip.length_ratio for clip in self.clips if clip.length_ratio is not None]
        if ratios:
            found |= {"length_ratio": statistics.median(ratios), "stops": self.stops}
        return {name: value for name, value in found.items() if value is not None}


def score(
    audio: Sequence[np.ndarray],
    texts: Sequence[str],
    *,
    natural: bool = True,
    voice: np.ndarray | None = None,
    expected: Sequence[Expected] | None = None,
    title: str = "Listening",
) -> Score:
    """Listen to clips, each (samples,) float32 at 24 kHz, and compare them with what each should say.

    `natural` asks for NISQA's opinion; `voice`, an embedding (256,) of `voice_print().of_voice`, for likeness;
    `expected`, one for each clip, for stops. A progress bar runs under `title`.

    Raises ModelUnavailable without the group `quality`, ValueError where there are not as many clips as texts.
    """
    hear = transcriber()
    opinion = listener() if natural else None
    known: Sequence[Expected | None] = [None] * len(texts) if expected is None else expected
    clips = []
    for samples, text, beforehand in tqdm(list(zip(audio, texts, known, strict=True)), title, disable=None):
        heard, seconds = hear(samples), len(samples) / SAMPLE_RATE
        clips.append(
            Clip(
                text,
                heard,
                compare(text, heard),
                seconds,
                mos=None if opinion is None else opinion(samples),
                likeness=None if voice is None else likeness(samples, voice),
                length_ratio=None if beforehand is None else seconds / beforehand.seconds,
                stop=None if beforehand is None else stop(seconds, beforehand.seconds, beforehand.max_new_tokens),
            )
        )
    return Score(tuple(clips))


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
