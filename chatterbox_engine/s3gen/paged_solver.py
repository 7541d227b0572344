"""Euler's method over what is kept in pages, so that a chunk's steps can be captured."""

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.paged import Pages, few
from chatterbox_engine.s3gen.pages import PagedPast
from chatterbox_engine.s3gen.solver import PADDED_FRAMES, EulerSolver, SolverPast
from chatterbox_engine.spec import S3GenSpec


class PagedSolver(EulerSolver):
    """`EulerSolver` whose streams keep pages, which all streams of a voice share for its prompt."""

    def __init__(self, estimator: Estimator, spec: S3GenSpec, graphs: Graphs, kernels: ModuleType) -> None:
        """`kernels`: the module `triton_kernels`."""
        super().__init__(estimator, spec, graphs)
        own = spec.estimator
        self._pages = Pages(kernels, own.layers, own.heads, own.head_width, estimator.kept, 1 if spec.meanflow else 2)
        self._recurring = Recurring("paged euler", self._gone_on, graphs)

    def begin(self, steps: int) -> SolverPast:
        return self._pages.begin(steps, self._estimator.final_proj.weight)

    def go_on(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, counts: Sequence[int], pasts: Sequence[SolverPast]
    ) -> Tensor:
        own = [past for past in pasts if isinstance(past, PagedPast)]
        (streams, _, frames), steps = x.shape, len(own[0].before)
        plan = self._pages.plan(own, counts)
        before = torch.stack([past.before for past in own], dim=2)
        if self._recurring.enabled:
            rows = few(streams) - streams
            x, mu, cond = (F.pad(given, (0, 0, 0, 0, 0, rows)) for given in (x, mu, cond))
            speaker, plan, before = (F.pad(given, (0, 0, 0, rows)) for given in (speaker, plan, before))
            if not self._recurring.recurs(x):
                x, mu, cond = (F.pad(given, (0, -frames % PADDED_FRAMES)) for given in (x, mu, cond))
        mu, speaker, cond = self._guided(mu, speaker, cond)
        made = []
        indices = torch.arange(steps, device=x.device).split(1)
        for (time, step), index, kept in zip(self._times(steps, x.device), indices, before.flatten(1, 2), strict=True):
            state = self._recurring(x, mu, time, step, speaker, cond, plan, kept, index)
            x = state[:, : x[0].numel()].view_as(x)
            made.append(state[:, x[0].numel() :].to(before.dtype))
        after = torch.stack(made).unflatten(2, (self._pages.sequences, -1))  # (steps, B, sequences, numbers)
        for row, past in enumerate(own):
            past.before = after[:, row].clone()
        return x[:streams, :, :frames]

    def _gone_on(
        self,
        x: Tensor,
        mu: Tensor,
        time: Tensor,
        step: Tensor,
        speaker: Tensor,
        cond: Tensor,
        plan: Tensor,
        kept: Tensor,
        index: Tensor,
    ) -> Tensor:
        """One step: x after it, and what its convolutions keep (B, mel_bins T + sequences numbers), in x's dtype."""
        before = self._pages.before(plan, kept, index)
        x = self._stepped(x, None, mu, time, step, speaker, cond, before)
        after = before.kept().unflatten(0, (self._pages.sequences, -1)).transpose(0, 1)
        return torch.cat((x.flatten(1), after.flatten(1).to(x.dtype)), dim=1)
