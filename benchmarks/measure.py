"""How things are timed: variants in turns, warm-up left out, medians with their spread, ratios by round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from chatterbox_engine.types import SAMPLE_RATE

Measured = Mapping[str, float]
"""What one call of a variant measured, by name."""
Rounds = dict[str, list[Measured]]
"""Of each variant, what each round measured."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises ValueError where there are none."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(statistics.median(values), min(values), max(values))

    def as_dict(self) -> dict[str, float]:
        return {"median": self.median, "min": self.least, "max": self.greatest}


def in_turns(
    variants: Mapping[str, Callable[[], Measured]], repeats: int, *, warm_up: int = 1, title: str = "Measuring"
) -> Rounds:
    """Call every variant once a round, so that what changes on the machine changes for all of them.

    The first `warm_up` rounds are not kept. Every second round goes backwards, so that no variant always comes after
    the same one.
    """
    rounds: Rounds = {name: [] for name in variants}
    with tqdm(total=(warm_up + repeats) * len(variants), desc=title, disable=None) as bar:
        for number in range(-warm_up, repeats):
            for name in reversed(list(variants)) if number % 2 else variants:
                bar.set_postfix_str(name)
                measured = variants[name]()
                if number >= 0:
                    rounds[name].append(measured)
                bar.update()
    return rounds


def spread(rounds: Sequence[Measured], key: str) -> Spread:
    """Of one variant's rounds."""
    return Spread.of([measured[key] for measured in rounds])


def ratio(own: Sequence[Measured], baseline: Sequence[Measured], key: str, baseline_key: str | None = None) -> Spread:
    """own / baseline, of each round, then the median: both halves of a ratio come from the same minute."""
    pairs = zip(own, baseline, strict=True)
    return Spread.of([mine[key] / theirs[baseline_key or key] for mine, theirs in pairs])


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, with the device's work done."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: torch.device) -> None:
    """Wait for the device. A CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_audio(call: Callable[[], Tensor], device: torch.device) -> dict[str, float]:
    """Of a call that makes samples (..., n): seconds spent, seconds of audio, and the first over the second."""
    synchronize(device)
    begin = time.perf_counter()
    samples = call()
    synchronize(device)
    took = time.perf_counter() - begin
    audio = samples.shape[-1] / SAMPLE_RATE
    return {"seconds": took, "audio_s": audio, "rtf": took / audio}
