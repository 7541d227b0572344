"""Euler's method from noise to mel, by the estimator's velocity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.past import Before, Continuation, Past
from chatterbox_engine.spec import S3GenSpec

Kept = TypeVar("Kept", bound="SolverPast")


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
    """

    def __init__(self, estimator: Estimator, spec: S3GenSpec) -> None:
        self._estimator = estimator
        self._spec = spec

    def __call__(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, steps: int, *, ends: Tensor | None = None
    ) -> Tensor:
        mask = None
        if ends is not None:
            mask = (torch.arange(x.shape[2], device=ends.device) < ends[:, None])[:, None]
        return self.solve(x, mask, mu, speaker, cond, [None] * steps)

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
        estimator, spec = self._estimator, self._spec
        times = step_times(spec, len(before), x.device)
        steps = zip(embedded_times(estimator, spec, times).split(1), times.diff(), before, strict=True)
        if spec.meanflow:
            for time, step, past in steps:
                x = x + step * estimator.velocity(x.to(mu.dtype), mask, mu, time, speaker, cond, past).to(x.dtype)
            return x
        mu, speaker, cond = (torch.cat((given, torch.zeros_like(given))) for given in (mu, speaker, cond))
        if mask is not None:
            mask = mask.repeat(2, 1, 1)
        rate = spec.cfg_rate
        for time, step, past in steps:
            rows = x.to(mu.dtype).repeat(2, 1, 1)
            given, free = estimator.velocity(rows, mask, mu, time, speaker, cond, past).to(x.dtype).chunk(2)
            x = x + step * ((1 + rate) * given - rate * free)
        return x
