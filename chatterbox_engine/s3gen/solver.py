"""Euler's method from noise to mel, by the estimator's velocity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.past import Before, Continuation, Past
from chatterbox_engine.spec import S3GenSpec

Kept = TypeVar("Kept", bound="SolverPast")

PADDED_FRAMES = 64
"""A shape that has not come before is padded to a multiple of so many."""


class SolverPast(Protocol):
    """What a solver keeps of a stream."""

    def copy(self: Kept) -> Kept:
        """Another stream's, that begins alike."""

    def forget(self, first: int, last: int) -> None:
        """Keep the first and the last so many frames."""


class Solver(Protocol):
    """Noise x (B, mel_bins, T) -> mel, in x's dtype, for mu (B, mel_bins, T), speaker (B, mel_bins) and the known
    frames cond (B, mel_bins, T)."""

    def __call__(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, steps: int, *, ends: Tensor | None = None
    ) -> Tensor:
        """From the rows' first frames on, in so many steps. `ends` (B,): each row's frames; None: all have T. What
        comes after them means nothing."""

    def begin(self, steps: int) -> SolverPast:
        """Of a stream before its first frame."""

    def go_on(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, counts: Sequence[int], pasts: Sequence[SolverPast]
    ) -> Tensor:
        """Frames that come after those of earlier calls, `counts` of each row's; `pasts`, of as many steps each, are
        moved on."""


def step_times(spec: S3GenSpec, steps: int, device: torch.device) -> Tensor:
    """Ends (steps + 1,) of the steps: even for a mean-flow model; for others they follow a cosine."""
    even = torch.linspace(0, 1, steps + 1, device=device)
    return even if spec.meanflow else 1 - torch.cos(even * (math.pi / 2))


def embedded_times(estimator: Estimator, spec: S3GenSpec, times: Tensor) -> Tensor:
    """(steps, 4 width) of each step, for the estimator."""
    return estimator.embed_time(times[:-1], times[1:] if spec.meanflow else None)


@dataclass(slots=True)
class EulerPast:
    """Of the estimator, at each step."""

    steps: list[Past]

    def copy(self) -> "EulerPast":
        return EulerPast([step.copy() for step in self.steps])

    def forget(self, first: int, last: int) -> None:
        for step in self.steps:
            step.forget(first, last)


class EulerSolver:
    """By PyTorch, on any device.

    With guidance (Ho and Salimans, 2207.12598): rows with all conditions, then the same rows with none. A mean-flow
    model has it distilled into it.

    With graphs, one Euler step is captured for each shape that comes again, as those of a schedule's chunks do. The
    others, mostly an utterance's last, are padded to one of a few lengths, which are.
    """

    def __init__(self, estimator: Estimator, spec: S3GenSpec, graphs: Graphs | None = None) -> None:
        self._estimator = estimator
        self._spec = spec
        self._captured = None if graphs is None else Recurring("euler", self._stepped, graphs)

    def __call__(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, steps: int, *, ends: Tensor | None = None
    ) -> Tensor:
        frames = x.shape[2]
        captured = self._captured
        if captured is not None and captured.enabled and (ends is not None or not captured.recurs(x)):
            if ends is None:
                ends = torch.full((len(x),), frames, device=x.device)
            padding = -frames % PADDED_FRAMES
            x, mu, cond = (F.pad(given, (0, padding)) for given in (x, mu, cond))
        mask = None
        if ends is not None:
            mask = (torch.arange(x.shape[2], device=ends.device) < ends[:, None])[:, None]
        return self.solve(x, mask, mu, speaker, cond, [None] * steps)[:, :, :frames]

    def begin(self, steps: int) -> SolverPast:
        return EulerPast([Past() for _ in range(steps)])

    def go_on(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, counts: Sequence[int], pasts: Sequence[SolverPast]
    ) -> Tensor:
        rows = 1 if self._spec.meanflow else 2
        each = zip(*(past.steps for past in pasts if isinstance(past, EulerPast)), strict=True)
        return self.solve(x, None, mu, speaker, cond, [Continuation(step, counts, rows) for step in each])

    def solve(
        self, x: Tensor, mask: Tensor | None, mu: Tensor, speaker: Tensor, cond: Tensor, before: Sequence[Before | None]
    ) -> Tensor:
        """`before`: what came before x's frames, for each step. `mask`: as the estimator has it."""
        mu, speaker, cond = self._guided(mu, speaker, cond)
        if mask is not None and not self._spec.meanflow:
            mask = mask.repeat(2, 1, 1)
        for (time, step), past in zip(self._times(len(before), x.device), before, strict=True):
            given = x, mask, mu, time, step, speaker, cond
            x = self._stepped(*given, past) if past is not None or self._captured is None else self._captured(*given)
        return x

    def _times(self, steps: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Of each step its time (1, 4 width), as the estimator has it, and how long it is ()."""
        times = step_times(self._spec, steps, device)
        embedded = embedded_times(self._estimator, self._spec, times)
        return list(zip(embedded.split(1), times.diff(), strict=True))

    def _guided(self, *conditions: Tensor) -> list[Tensor]:
        """With guidance, the rows with all conditions, then the same rows with none."""
        if self._spec.meanflow:
            return list(conditions)
        return [torch.cat((given, torch.zeros_like(given))) for given in conditions]

    def _stepped(
        self,
        x: Tensor,
        mask: Tensor | None,
        mu: Tensor,
        time: Tensor,
        step: Tensor,
        speaker: Tensor,
        cond: Tensor,
        before: Before | None = None,
    ) -> Tensor:
        """x after one step of so long. With guidance, the rest has rows with all conditions, then those with none."""
        velocity = self._estimator.velocity
        if self._spec.meanflow:
            return x + step * velocity(x.to(mu.dtype), mask, mu, time, speaker, cond, before).to(x.dtype)
        rows = x.to(mu.dtype).repeat(2, 1, 1)
        given, free = velocity(rows, mask, mu, time, speaker, cond, before).to(x.dtype).chunk(2)
        rate = self._spec.cfg_rate
        return x + step * ((1 + rate) * given - rate * free)
