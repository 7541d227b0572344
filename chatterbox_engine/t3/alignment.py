"""The alignment guard: ends or holds back a stream by where its attention stands in the text.

The decisions are those of chatterbox-tts's AlignmentStreamAnalyzer, which keeps the whole attention map of an utterance
and runs on the host. All of them follow from the newest row and a few running numbers, so here each stream has those
numbers on the device, and a step costs the same however long the utterance is.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from chatterbox_engine.accel.native import pointer
from chatterbox_engine.spec import T3Spec

_HELD = -float(2**15)
"""The reference's logit of what must not be drawn; its negative is that of what must."""
_LONG_TAIL = 5.0
"""Attention that one of the text's last three tokens may gather once the text is complete: 200 ms."""
_REPETITION = 5.0
"""Attention that earlier text may gather once the text is complete."""
_COLUMNS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3)
"""Widths of what is kept of a stream, in the order of guard.h's Stream."""
_POSITION, _STARTED, _TOKEN = 4, 5, 9
_NOWHERE = -1
"""A place that no attention has."""


class AlignmentGuard:
    """The state of every slot, and one decision a step. Everything is a tensor, so that a graph can hold it.

    What a step costs is the number of its operators, so the state is one table that is read and written once; with the
    CPU's own `kernels` it is one call.
    """

    def __init__(
        self,
        spec: T3Spec,
        slots: int,
        device: torch.device,
        kernels: ctypes.CDLL | None = None,
        *,
        decides: bool = True,
    ) -> None:
        """`decides` False: it says where attention stands, and leaves the logits as they are."""
        self._decides = decides
        self._stop = spec.stop_speech
        self._kernel = None if kernels is None else kernels.guard
        self._state = torch.zeros(slots, sum(_COLUMNS), device=device)
        """(slots, columns). Its whole numbers are below 2**24, exact in fp32."""
        self._edges = torch.zeros(slots, 7, dtype=torch.int64, device=device)
        """Places of the text's first four and last three tokens."""

    @property
    def started(self) -> Tensor:
        """Whether the speech of each slot has begun, as the reference tells it: (slots,). No decision depends on it."""
        return self._state[:, _STARTED] > 0

    def join(self, slot: int, begin: int, text: int, drawn: Sequence[int]) -> None:
        """A stream takes a slot; its text is the `text` tokens from place `begin` of its rows, `drawn` the start token
        and those spoken elsewhere. After the latter it stands wherever its attention is found first."""
        end, frames = begin + text, len(drawn) - 1
        self._state[slot] = 0
        place = _NOWHERE if frames else begin
        self._state[slot, : _POSITION + 1] = torch.tensor([begin, end, end - 3 if text > 5 else 0, frames, place])
        self._state[slot, _TOKEN] = drawn[-2] if frames else 0
        edges = torch.tensor([0, 1, 2, 3, text - 3, text - 2, text - 1])
        self._edges[slot] = begin + edges.clamp(0, text - 1)

    def apply(self, logits: Tensor, attention: Tensor, slots: Tensor, tokens: Tensor) -> Tensor:
        """Change the logits (S, V), contiguous, to what may be sampled. Returns which of its text's tokens each stream
        attends to most, (S,).

        attention (S, C, L) is that of the rows' newest positions: both start tokens (C = 2) at a stream's first step,
        one ever after. slots (S,); tokens (S,) are the last ones drawn, the start token at first.
        """
        if self._kernel is not None:
            attention = attention.contiguous()
            places = torch.empty(len(slots), dtype=torch.int64)
            numbers = (*attention.shape, logits.shape[1], self._stop, int(self._decides))
            tensors = (pointer(tensor) for tensor in (self._state, slots, attention, tokens, logits, places))
            self._kernel(*tensors, *map(ctypes.c_int64, numbers))
            return places
        state = self._state.index_select(0, slots).split(_COLUMNS, dim=1)
        begin, end, held, frames, position, started, complete, first, previous_end, token, earlier, tail = state
        tokens = tokens[:, None]

        place = torch.arange(attention.shape[2], dtype=torch.float32, device=logits.device)
        seen = (place >= begin) & (place < torch.minimum(end, begin + frames + 1))
        attention = torch.where(seen[:, None], attention, -1.0)
        row = attention[:, -1]
        at = row.argmax(-1, keepdim=True)
        edges = self._edges.index_select(0, slots).clamp(max=len(place) - 1)
        edge = attention.gather(-1, edges[:, None].expand(-1, attention.shape[1], -1)).clamp(min=0.0)  # (S, C, 7)
        newest, strongest = edge[:, -1], edge.amax(1)

        first = torch.maximum(first, strongest[:, :4].amax(-1, keepdim=True))
        recent_end = torch.maximum(previous_end, strongest[:, 5:].amax(-1, keepdim=True))
        started = torch.maximum(started, (recent_end <= 0.1) & (first >= 0.5))

        tail = tail + complete * newest[:, 4:]
        earlier = earlier + complete * torch.where(place < end - 5, row, 0.0).amax(-1, keepdim=True)
        moved = at - position
        position = torch.where(((moved > -4) & (moved < 7)) | (position == _NOWHERE), at, position)
        complete = torch.maximum(complete, position >= end - 3)
        ends = (tail.amax(-1, keepdim=True) >= _LONG_TAIL) | (earlier > _REPETITION)
        ends |= (token == tokens) & (frames >= 2)

        if self._decides:
            stop = torch.where(at < held, _HELD, logits[:, self._stop, None])
            logits.masked_fill_(ends, _HELD)
            logits[:, self._stop, None] = torch.where(ends, -_HELD, stop)

        previous_end = newest[:, 5:].amax(-1, keepdim=True)
        new = (begin, end, held, frames + 1, position, started, complete, first, previous_end, tokens, earlier, tail)
        self._state.index_copy_(0, slots, torch.cat(new, dim=1))
        return (at - begin.long())[:, 0]
