"""Euler's method over what is kept in pages, by the GPU's own attention, so that a chunk's steps can be captured."""

import logging
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.errors import reason
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.pages import PAGE, PagedPast
from chatterbox_engine.s3gen.past import Bias
from chatterbox_engine.s3gen.solver import PADDED_FRAMES, EulerSolver, SolverPast
from chatterbox_engine.spec import S3GenSpec

logger = logging.getLogger(__name__)

_PAGES = 64
"""A plan has room for a multiple of so many pages: 41 s, prompt included."""
_QUERIES = 64
"""Of one program."""
_NARROWEST = 16
"""A head that the GPU's matrix unit takes."""


class PagedSolver(EulerSolver):
    """`EulerSolver` whose streams keep keys and values in pages (2309.06180) that a voice's streams share.

    The kernels find them by address. So one graph serves streams of any length, and no call copies what is kept.
    """

    def __init__(self, estimator: Estimator, spec: S3GenSpec, graphs: Graphs, kernels: ModuleType) -> None:
        """`kernels`: the module `triton_kernels`."""
        super().__init__(estimator, spec, graphs)
        self._kernels = kernels
        self._sequences = 1 if spec.meanflow else 2
        self._recurring = Recurring("paged euler", self._gone_on, graphs)

    @classmethod
    def of(cls, estimator: Estimator, spec: S3GenSpec, graphs: Graphs) -> "PagedSolver | None":
        """None where it does not fit the model, or does not run here, which is said."""
        weight, width = estimator.final_proj.weight, spec.estimator.head_width
        if weight.device.type != "cuda" or width & (width - 1) or width < _NARROWEST:
            return None
        try:
            from chatterbox_engine.s3gen import triton_kernels

            solver = cls(estimator, spec, graphs, triton_kernels)
            with torch.cuda.device(weight.device):  # Triton launches on the thread's own
                solver.try_out()
        except Exception as error:  # of the compiler, whose exceptions have no common class
            logger.warning("gpu_kernels: S3Gen's could not be compiled (%s); PyTorch's operators run.", reason(error))
            return None
        return solver

    def try_out(self) -> None:
        """Run every kernel once: a frame of one step."""
        weight, spec = self._estimator.final_proj.weight, self._spec
        given = [torch.zeros(1, spec.mel_bins, 1, dtype=weight.dtype, device=weight.device) for _ in range(3)]
        speaker = given[0][:, :, 0]
        self.go_on(given[0].float(), given[1], speaker, given[2], [1], [self.begin(1)])

    def begin(self, steps: int) -> SolverPast:
        weight = self._estimator.final_proj.weight
        before = torch.zeros(steps, self._sequences, self._estimator.kept, dtype=weight.dtype, device=weight.device)
        return PagedPast(before)

    def go_on(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, counts: Sequence[int], pasts: Sequence[SolverPast]
    ) -> Tensor:
        own = [past for past in pasts if isinstance(past, PagedPast)]
        (streams, _, frames), steps = x.shape, len(own[0].before)
        plan = self._plan(own, counts, steps).to(x.device)
        before = torch.stack([past.before for past in own], dim=2)
        if self._recurring.enabled:
            rows = _few(streams) - streams
            padding = 0 if self._recurring.recurs(x) else -frames % PADDED_FRAMES
            x, mu, cond = (F.pad(given, (0, padding, 0, 0, 0, rows)) for given in (x, mu, cond))
            speaker, plan, before = (F.pad(given, (0, 0, 0, rows)) for given in (speaker, plan, before))
        mu, speaker, cond = self._guided(mu, speaker, cond)
        made = []
        indices = torch.arange(steps, device=x.device).split(1)
        for (time, step), index, kept in zip(self._times(steps, x.device), indices, before.flatten(1, 2), strict=True):
            state = self._recurring(x, mu, time, step, speaker, cond, plan, kept, index)
            x = state[:, : x[0].numel()].view_as(x)
            made.append(state[:, x[0].numel() :].to(before.dtype))
        after = torch.stack(made).unflatten(2, (self._sequences, -1))  # (steps, B, sequences, numbers)
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
        before: Tensor,
        index: Tensor,
    ) -> Tensor:
        """One step: x after it, and what its convolutions keep (B, mel_bins T + sequences numbers), in x's dtype."""
        pages = _Pages(self._kernels, self._spec, plan, before, index)
        x = self._stepped(x, None, mu, time, step, speaker, cond, pages)
        kept = pages.kept().unflatten(0, (self._sequences, -1)).transpose(0, 1)
        return torch.cat((x.flatten(1), kept.flatten(1).to(x.dtype)), dim=1)

    def _plan(self, pasts: list[PagedPast], counts: Sequence[int], steps: int) -> Tensor:
        """As the kernels have it; the pasts get room for the new places."""
        own = self._spec.estimator
        numbers = steps * own.layers * self._sequences * own.heads * 2 * PAGE * own.head_width
        page = (numbers * pasts[0].before.element_size(),)
        firsts = [past.grow(count, page) for past, count in zip(pasts, counts, strict=True)]
        room = -(-max(len(past.pages) for past in pasts) // _PAGES) * _PAGES
        rows = []
        for past, count, first in zip(pasts, counts, firsts, strict=True):
            rest = [0] * (room - len(past.pages))
            addresses = [page.memory.data_ptr() for page in past.pages]
            rows.append([count, first, len(past.pages), *addresses, *rest, *(page.there for page in past.pages), *rest])
        return torch.tensor(rows)


class _Pages:
    """What streams keep, to the layers: `Before`, of rows that are all streams' and so many times.

    `before` (R, numbers): what each row's convolutions had last, in the order in which they run.
    """

    def __init__(self, kernels: ModuleType, spec: S3GenSpec, plan: Tensor, before: Tensor, step: Tensor) -> None:
        self._kernels = kernels
        self._spec = spec.estimator
        self._plan = plan
        self._step = step
        self._before = before
        self._counts = plan[:, 0].repeat(len(before) // len(plan))
        self._begin = 0
        self._layer = 0
        self._kept: list[Tensor] = []

    def extend(self, x: Tensor, count: int) -> Tensor:
        end = self._begin + count * x.shape[2]
        before = self._before[:, self._begin : end].unflatten(1, (count, -1))
        self._begin = end
        x = torch.cat((before, x), dim=1)
        last = self._counts[:, None] + torch.arange(count, device=x.device)
        self._kept.append(x.gather(1, last[:, :, None].expand(-1, -1, x.shape[2])).flatten(1))
        return x

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, bias: Bias | None = None) -> Tensor:
        assert bias is None
        layer, self._layer = self._layer, self._layer + 1
        q, keys, values = (given.transpose(1, 2).contiguous() for given in (q, keys, values))
        rows, frames, heads, width = q.shape
        streams, own = len(self._plan), self._spec
        where = self._plan, self._plan.shape[1], self._step, own.layers, layer, frames, streams, rows // streams
        sizes = {"HEADS": heads, "WIDTH": width, "PAGE": PAGE}
        self._kernels.place[(-(-frames // PAGE) + 1, heads, rows)](keys, values, *where, **sizes)  # a page more: begun
        made = torch.empty_like(q)
        precision = "ieee" if q.dtype == torch.float32 else "tf32"  # of 16 bits there is one way
        self._kernels.attend[(-(-frames // _QUERIES), heads, rows)](
            q, made, *where, width**-0.5, **sizes, BLOCK=_QUERIES, PRECISION=precision
        )
        return made.flatten(2)

    def kept(self) -> Tensor:
        """(R, numbers), for the next call."""
        return torch.cat(self._kept, dim=1)


def _few(streams: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, ...: so that few graphs serve every number of streams."""
    power = 1 << (streams - 1).bit_length()
    return streams if streams < 3 else power // 4 * 3 if streams <= power // 4 * 3 else power
