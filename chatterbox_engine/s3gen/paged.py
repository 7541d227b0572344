"""What streams keep on a GPU: keys and values in pages (2309.06180), which the engine's own attention (Triton) reads.

The kernels find pages by address. So one captured graph serves streams of any length, and no call copies what is kept.
"""

from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor

from chatterbox_engine.s3gen.pages import PAGE, PagedPast
from chatterbox_engine.s3gen.past import ByDistance

_ROOM = 32
"""A plan has room for a multiple of so many pages, so that few graphs serve streams of any length."""
_QUERIES = 64
"""Of one program."""
_NARROWEST = 16
"""A head that the GPU's matrix unit takes."""


class Pages:
    """The layers of a network that keeps pages: it makes pasts, and of a call's pasts what its kernels ask for."""

    def __init__(self, kernels: ModuleType, layers: int, heads: int, width: int, kept: int, sequences: int = 1) -> None:
        """`kernels`: the module `triton_kernels`; `width`: of a head; `kept`: numbers that the convolutions keep of a
        row; `sequences`: rows of a stream."""
        self.kernels = kernels
        self.layers = layers
        self.sequences = sequences
        self._heads = heads
        self._width = width
        self._kept = kept

    @staticmethod
    def fit(width: int) -> bool:
        """Whether the kernels take heads of such a width."""
        return width >= _NARROWEST and not width & (width - 1)

    def begin(self, steps: int, like: Tensor) -> PagedPast:
        """Of a stream before its first place, with the numbers of `like`, and on its device."""
        return PagedPast(like.new_zeros(steps, self.sequences, self._kept))

    def plan(self, pasts: Sequence[PagedPast], counts: Sequence[int]) -> Tensor:
        """What the kernels know of a call (B, 3 + 2 P), see there. The pasts get room for `counts` new places."""
        kept = pasts[0].before
        numbers = len(kept) * self.layers * self.sequences * self._heads * 2 * PAGE * self._width
        page = (numbers * kept.element_size(),)
        firsts = [past.grow(count, page) for past, count in zip(pasts, counts, strict=True)]
        room = -(-max(len(past.pages) for past in pasts) // _ROOM) * _ROOM
        rows = []
        for past, count, first in zip(pasts, counts, firsts, strict=True):
            rest = [0] * (room - len(past.pages))
            addresses = [page.memory.data_ptr() for page in past.pages]
            earlier = accumulate((page.there.bit_count() for page in past.pages), initial=0)
            there = [page.there | before << PAGE for page, before in zip(past.pages, earlier, strict=False)]
            rows.append([count, first, len(past.pages), *addresses, *rest, *there, *rest])
        return torch.tensor(rows).to(kept.device)

    def before(self, plan: Tensor, kept: Tensor, step: Tensor) -> "PagesBefore":
        """To the layers: `kept` (R, numbers) of the rows, at `step` (1,) of the pasts' steps."""
        return PagesBefore(self, plan, kept, step)


class PagesBefore:
    """`Before`, of rows that are all streams', once a sequence. What it is asked for can be captured."""

    def __init__(self, pages: Pages, plan: Tensor, kept: Tensor, step: Tensor) -> None:
        self._pages = pages
        self._plan = plan
        self._step = step
        self._old = kept
        self._new: list[Tensor] = []
        self._counts = plan[:, 0].repeat(pages.sequences)
        self._begin = 0
        self._layer = 0

    def extend(self, x: Tensor, count: int) -> Tensor:
        end = self._begin + count * x.shape[2]
        before = self._old[:, self._begin : end].unflatten(1, (count, -1))
        self._begin = end
        x = torch.cat((before, x), dim=1)
        last = self._counts[:, None] + torch.arange(count, device=x.device)
        self._new.append(x.gather(1, last[:, :, None].expand(-1, -1, x.shape[2])).flatten(1))
        return x

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, by_distance: ByDistance | None = None) -> Tensor:
        layer, self._layer = self._layer, self._layer + 1
        q, keys, values = (given.transpose(1, 2).contiguous() for given in (q, keys, values))
        rows, frames, heads, width = q.shape
        pages, room = self._pages, self._plan.shape[1]
        where = self._plan, room, self._step, pages.layers, layer, frames, len(self._plan), pages.sequences
        sizes = {"HEADS": heads, "WIDTH": width, "PAGE": PAGE}
        programs = -(-frames // PAGE) + 1  # a page may have been begun
        pages.kernels.place[(programs, heads, rows)](keys, values, *where, **sizes)
        made = torch.empty_like(q)
        added = q if by_distance is None else by_distance(slice(None), frames, (room - 3) // 2 * PAGE).contiguous()
        precision = "ieee" if q.dtype == torch.float32 else "tf32"  # of 16 bits there is one way
        pages.kernels.attend[(-(-frames // _QUERIES), heads, rows)](
            q, made, added, *where, width**-0.5,
            **sizes, BLOCK=_QUERIES, ADDS=by_distance is not None, PRECISION=precision,
        )  # fmt: skip
        return made.flatten(2)

    def kept(self) -> Tensor:
        """(R, numbers), for the next call."""
        return torch.cat(self._new, dim=1)


def few(streams: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, ...: so that few graphs serve every number of streams."""
    power = 1 << (streams - 1).bit_length()
    return streams if streams < 3 else power // 4 * 3 if streams <= power // 4 * 3 else power
