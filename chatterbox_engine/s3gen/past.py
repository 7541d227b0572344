"""What a causal layer sees of the places before those of its call: nothing, or what earlier calls kept.

With chunks that attend to themselves and to all before them (CosyVoice 2, 2412.10117, section 2.4), a chunk's result
never changes later. So keys, values and the last inputs of convolutions are kept, and a call computes new places alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Kept = TypeVar("Kept")


ByDistance = Callable[[slice, int, int], Tensor]
"""Scores by distance, of some rows, their first so many queries, the last of so many keys (rows, H, queries, keys +
queries - 1): in a query's row that of key j stands in column j for the last query, for one before it one column on."""


class Before(Protocol):
    """The places before a call's, to the layers, which ask in the order in which they run."""

    def extend(self, x: Tensor, count: int) -> Tensor:
        """x (R, T, C) -> (R, count + T, C), with the `count` places before it."""

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, by_distance: ByDistance | None = None) -> Tensor:
        """Attention of new places q (R, H, T, D), whose keys and values (R, H, T, D) are, to themselves and to those
        before them -> (R, T, H D), zero at padding. To the scores of each two places `by_distance` is added."""


class _Part(NamedTuple):
    """Rows of a call that attend to the same number of keys."""

    rows: slice
    places: int
    """New places of these rows; those after them are padding."""
    keys: Tensor
    """(rows, H, L, D)"""
    values: Tensor
    mask: Tensor | None
    """True where a place may attend."""


class Nothing:
    """The call holds its rows from their first place on; `mask` (B or 1, 1, 1 or T, T) says where they attend."""

    def __init__(self, mask: Tensor | None = None) -> None:
        self._mask = mask

    def extend(self, x: Tensor, count: int) -> Tensor:
        return F.pad(x, (0, 0, count, 0))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, by_distance: ByDistance | None = None) -> Tensor:
        return _joined(_attended(q, _Part(slice(None), keys.shape[2], keys, values, self._mask), by_distance))


@dataclass(slots=True)
class Past:
    """What the layers of one network keep of one stream, in the order in which they run; G rows a stream."""

    inputs: list[Tensor] = field(default_factory=list)
    """Of each convolution the last places (G, count, C)."""
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Of each attention (G, H, L, D), twice."""

    def copy(self) -> "Past":
        """Another stream's, that begins alike. Tensors are shared: none is ever written to."""
        return Past(list(self.inputs), list(self.keys_values))

    def forget(self, first: int, last: int) -> None:
        """Of each attention keep the first and the last so many places."""
        for index, both in enumerate(self.keys_values):
            if both[0].shape[2] > first + last:
                keys, values = (torch.cat((own[:, :, :first], own[:, :, own.shape[2] - last :]), dim=2) for own in both)
                self.keys_values[index] = keys, values


class Continuation:
    """B streams of G rows each go on: rows are those of all streams, G times. A call moves their pasts on."""

    def __init__(self, pasts: Sequence[Past], counts: Sequence[int], rows: int) -> None:
        """`counts`: new places of each stream, the shorter ones padded on the right; `rows`: G."""
        self._pasts = pasts
        self._counts = counts
        self._rows = rows
        self._convolution = self._attention = 0

    def extend(self, x: Tensor, count: int) -> Tensor:
        index, self._convolution = self._convolution, self._convolution + 1
        nothing = x.new_zeros(self._rows, count, x.shape[2])
        before = [past.inputs[index] if index < len(past.inputs) else nothing for past in self._pasts]
        x = torch.cat((torch.stack(before, dim=1).flatten(0, 1), x), dim=1)
        for stream, (past, own) in enumerate(zip(self._pasts, self._counts, strict=True)):
            _put(past.inputs, index, x[self._of(stream), own : own + count].clone())
        return x

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, by_distance: ByDistance | None = None) -> Tensor:
        parts = self._parts(keys, values)
        if len(parts) == 1 and parts[0].places == q.shape[2]:
            return _joined(_attended(q, parts[0], by_distance))
        y = torch.zeros_like(q)
        for part in parts:
            y[part.rows, :, : part.places] = _attended(q, part, by_distance)
        return _joined(y)

    def _parts(self, keys: Tensor, values: Tensor) -> list[_Part]:
        """Those of each stream, with what came before; its past has both from now on."""
        index, self._attention = self._attention, self._attention + 1
        parts = []
        for stream, (past, own) in enumerate(zip(self._pasts, self._counts, strict=True)):
            rows = self._of(stream)
            seen = [keys[rows, :, :own], values[rows, :, :own]]
            if index < len(past.keys_values):
                seen = [torch.cat(both, dim=2) for both in zip(past.keys_values[index], seen, strict=True)]
            else:
                seen = [new.clone() for new in seen]  # a view would keep the whole call's alive
            _put(past.keys_values, index, (seen[0], seen[1]))
            parts.append(_Part(rows, own, seen[0], seen[1], None))
        return parts

    def _of(self, stream: int) -> slice:
        return slice(stream, None, len(self._pasts))


def _attended(q: Tensor, part: _Part, by_distance: ByDistance | None) -> Tensor:
    """Of a part's rows and places, of q (R, H, T, D)."""
    mask = part.mask
    if by_distance is not None:
        queries, keys = part.places, part.keys.shape[2]
        added = _placed(by_distance(part.rows, queries, keys), keys) * q.shape[-1] ** -0.5
        mask = added if mask is None else added.masked_fill(~mask, -torch.inf)
    own = q[part.rows, :, : part.places]
    return F.scaled_dot_product_attention(own, part.keys, part.values, attn_mask=mask)


def _placed(scores: Tensor, keys: int) -> Tensor:
    """Scores by distance -> (rows, H, queries, keys): a view with a row stride shorter by one. To scale it makes the
    copy in plain order that the fused attention kernels ask of a bias."""
    rows, heads, queries, _ = scores.shape
    outer, head, row, _ = scores.stride()
    start = scores.storage_offset() + queries - 1
    return scores.as_strided((rows, heads, queries, keys), (outer, head, row - 1, 1), start)


def _joined(y: Tensor) -> Tensor:
    """(R, H, T, D) -> (R, T, H D)"""
    return y.transpose(1, 2).flatten(2)


def _put(kept: list[Kept], index: int, value: Kept) -> None:
    """Replace what is there, or be the next."""
    kept[index : index + 1] = [value]
