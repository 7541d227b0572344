"""Clips of speech and the texts they should speak -> how well they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.transcriber import transcriber
from benchmarks.wer import WordErrors, compare, interval
from chatterbox_engine.types import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip's score."""

    text: str
    heard: str
    errors: WordErrors
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """Of several clips together."""

    clips: tuple[Clip, ...]

    @property
    def errors(self) -> WordErrors:
        """Of all clips."""
        return reduce(add, (clip.errors for clip in self.clips), WordErrors(0))

    @property
    def wer(self) -> float:
        """Word error rate: all errors over all words."""
        return self.errors.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's 95 % interval; clips of the same text count as one draw."""
        by_text: dict[str, WordErrors] = {}
        for clip in self.clips:
            by_text[clip.text] = by_text.get(clip.text, WordErrors(0)) + clip.errors
        return interval(list(by_text.values()))

    def worst(self, count: int = 10) -> list[Clip]:
        """The clips with the most errors, to be read."""
        return sorted(self.clips, key=lambda clip: -clip.errors.total)[:count]

    def as_dict(self) -> dict[str, Any]:
        """Without the single clips."""
        errors = self.errors
        return {
            "wer": self.wer,
            "wer_interval": list(self.interval),
            "words": errors.words,
            "sentences": len({clip.text for clip in self.clips}),
            "clips": len(self.clips),
            "substitutions": errors.substitutions,
            "insertions": errors.insertions,
            "deletions": errors.deletions,
            "seconds": sum(clip.seconds for clip in self.clips),
        }


def score(audio: Sequence[np.ndarray], texts: Sequence[str], *, title: str = "Listening") -> Score:
    """Listen to clips, each (samples,) float32 at 24 kHz, and compare with what each should say.

    Raises ModelUnavailable without the group `quality`, ValueError where there are not as many clips as texts.
    """
    hear = transcriber()
    clips = []
    for samples, text in tqdm(list(zip(audio, texts, strict=True)), title, disable=None):
        heard = hear(samples)
        clips.append(Clip(text, heard, compare(text, heard), len(samples) / SAMPLE_RATE))
    return Score(tuple(clips))
