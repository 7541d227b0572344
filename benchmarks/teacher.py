"""The voice that the demo model learned from: what the harness compares with, and the best that can be hoped for."""

from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.sentences import SETS, Set, sentences
from chatterbox_engine.types import SAMPLE_RATE

_VOICE_SENTENCES = 10


def name() -> str:
    """With its version, for the conditions. Raises ModelUnavailable."""
    return f"hibari-tts {version('hibari-tts')}"


def spoken(text: str, seed: int = 0) -> np.ndarray:
    """(samples,) float32 at 24 kHz; the seed changes the noise in the sound and not its length.

    Raises ModelUnavailable without the package.
    """
    audio: np.ndarray = _teacher()(text, seed=seed)
    return audio.astype(np.float32)


def seconds(text: str) -> float:
    """How long it takes to say a text. Raises ModelUnavailable."""
    return len(spoken(text)) / SAMPLE_RATE


def voice_clips(scored: Set) -> list[np.ndarray]:
    """Its voice, in clips of the set that is not scored. Raises ModelUnavailable."""
    other = next(each for each in SETS if each != scored)
    return [spoken(text) for text in sentences(other, _VOICE_SENTENCES)]


@cache
def _teacher() -> Any:
    from hibari import Hibari

    return Hibari()
