"""Sentences that are to be read aloud, and what their readings are held against."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import likeness, naturalness, teacher, transcriber
from benchmarks.likeness import voice_print
from benchmarks.scoring import Expected, Score, score
from benchmarks.sentences import Set, sentences
from benchmarks.stops import limit
from benchmarks.waveform import save
from chatterbox_engine.clip import read_clip

Speak = Callable[[str, int, int], np.ndarray]
"""(text, seed, max_new_tokens) -> (samples,) float32 at 24 kHz."""


class Reading:
    """Some sentences of a set, `seeds` times each.

    Raises ModelUnavailable without the group `quality`, InvalidRequest where the clip of a voice cannot be used.
    """

    def __init__(self, chosen: Set, count: int | None, seeds: int, *, voice: Path | None = None) -> None:
        self.name = chosen
        texts = sentences(chosen, count)
        self._seeds = seeds
        self._tasks = [(text, seed) for seed in range(seeds) for text in texts]
        lengths = {text: teacher.seconds(text) for text in texts}
        self._expected = {text: Expected(seconds, limit(seconds)) for text, seconds in lengths.items()}
        clips = teacher.voice_clips(chosen) if voice is None else [read_clip(voice)]
        self._voice = voice_print().of_voice(clips)
        self._of_voice = "the teacher's" if voice is None else "a clip's"

    def conditions(self) -> dict[str, Any]:
        """What is read, and who listens."""
        return {
            "set": self.name,
            "sentences": len(self._expected),
            "seeds": self._seeds,
            "heard_by": transcriber.NAME,
            "judged_by": naturalness.NAME,
            "voice_by": likeness.NAME,
            "voice": self._of_voice,
            "teacher": teacher.name(),
        }

    def of(self, speak: Speak, title: str, *, at_once: int = 1, keep: Path | None = None) -> Score:
        """Have all of it spoken, `at_once` sentences at the same time, and listen. `keep` is a folder for the clips."""

        def spoken(task: tuple[str, int]) -> np.ndarray:
            text, seed = task
            return speak(text, seed, self._expected[text].max_new_tokens or 0)

        with ThreadPoolExecutor(at_once) as pool:
            made = pool.map(spoken, self._tasks)
            audio = list(tqdm(made, f"Speaking, {title}", total=len(self._tasks), disable=None))
        if keep is not None:
            for index, (samples, (_, seed)) in enumerate(zip(audio, self._tasks, strict=True)):
                save(samples, keep / f"{index % len(self._expected):03d}-{seed}.wav")
        texts = [text for text, _ in self._tasks]
        expected = [self._expected[text] for text in texts]
        return score(audio, texts, voice=self._voice, expected=expected, title=f"Listening, {title}")

    def rounds(self, result: Score) -> list[dict[str, Any]]:
        """Every clip of a score of this reading, for its JSON."""
        return [{"seed": seed, **asdict(clip)} for clip, (_, seed) in zip(result.clips, self._tasks, strict=True)]
