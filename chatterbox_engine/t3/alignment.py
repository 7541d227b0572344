"""The alignment guard: ends or holds back a stream by where its attention stands in the text.

The decisions are those of chatterbox-tts's AlignmentStreamAnalyzer, which keeps the whole attention map of an utterance
and runs on the host. All of them follow from the newest row and a few running numbers, so here each stream has those
numbers on the device, and a step costs the same however long the utterance is.
"""

import torch
from torch import Tensor

from chatterbox_engine.spec import T3Spec

_HELD = -float(2**15)
"""The reference's logit of what must not be drawn; its negative is that of what must."""
_LONG_TAIL = 5.0
"""Attention that one of the text's last three tokens may gather once the text is complete: 200 ms."""
_REPETITION = 5.0
"""Attention that earlier text may gather once the text is complete."""


class AlignmentGuard:
    """The state of every slot, and one decision a step. Everything is a tensor, so that a graph can hold it."""

    def __init__(self, spec: T3Spec, slots: int, device: torch.device) -> None:
        self._stop = spec.stop_speech

        def zeros(dtype: torch.dtype, *more: int) -> Tensor:
            return torch.zeros(slots, *more, dtype=dtype, device=device)

        self.begin = zeros(torch.int64)
        """Place of the text's first token in the row."""
        self.text = zeros(torch.int64) + 1
        """Tokens of the text, its marks included."""
        self._frames = zeros(torch.int64)
        self._position = zeros(torch.int64)
        self.started = zeros(torch.bool)
        self._complete = zeros(torch.bool)
        self._first = zeros(torch.float32)
        """Strongest attention so far to the text's first four tokens."""
        self._previous_end = zeros(torch.float32)
        """The row before's strongest attention to the last two tokens."""
        self._tail = zeros(torch.float32, 3)
        """Attention that each of the last three tokens gathered after completion."""
        self._earlier = zeros(torch.float32)
        """Sum of the rows' strongest attention to all but the last five tokens after completion."""
        self._token = zeros(torch.int64) - 1

    def join(self, slot: int, begin: int, text: int) -> None:
        """A new stream takes a slot; its text is the `text` tokens from place `begin` of its rows."""
        for name, state in vars(self).items():
            if isinstance(state, Tensor):
                state[slot] = -1 if name == "_token" else 0
        self.begin[slot] = begin
        self.text[slot] = text

    def apply(self, logits: Tensor, attention: Tensor, slots: Tensor, tokens: Tensor) -> Tensor:
        """The logits (S, V) as they may be sampled.

        attention (S, C, L) is that of the rows' newest positions: both start tokens (C = 2) at a stream's first step,
        one ever after. slots (S,); tokens (S,) are the last ones drawn, the start token at first.
        """
        length = attention.shape[-1]
        begin, text = self.begin[slots, None], self.text[slots, None]
        column = torch.arange(length, device=logits.device) - begin  # (S, L): place in the text
        frames = self._frames[slots]
        seen = (column >= 0) & (column < text) & (column <= frames[:, None])
        rows = attention.masked_fill(~seen[:, None], 0.0)
        row = rows[:, -1]
        at = torch.where(seen, row, -1.0).argmax(-1) - begin[:, 0]

        position = self._position[slots]
        near = (at - position > -4) & (at - position < 7)
        position = torch.where(near, at, position)
        text = text[:, 0]

        def strongest(where: Tensor, of: Tensor) -> Tensor:
            return of.masked_fill(~where, 0.0).amax(-1)

        end = (column >= text[:, None] - 2) & (column < text[:, None])
        first = torch.maximum(self._first[slots], strongest(column < 4, rows.amax(1)))
        newest_end = strongest(end, row)
        recent_end = torch.maximum(newest_end, strongest(end, rows[:, 0]))
        recent_end = torch.maximum(recent_end, self._previous_end[slots])
        started = self.started[slots] | ~((recent_end > 0.1) | (first < 0.5))

        was_complete = self._complete[slots]
        complete = was_complete | (position >= text - 3)
        places = begin + text[:, None] + torch.arange(-3, 0, device=logits.device)  # of the last three tokens
        inside = places.ge(begin) & places.lt(length)
        last_three = row.gather(1, places.clamp(0, length - 1)).masked_fill(~inside, 0.0)
        tail = self._tail[slots] + torch.where(was_complete[:, None], last_three, 0.0)
        earlier = self._earlier[slots] + torch.where(was_complete, strongest(column < text[:, None] - 5, row), 0.0)
        ends = complete & ((tail.amax(-1) >= _LONG_TAIL) | (earlier > _REPETITION))
        ends |= (tokens == self._token[slots]) & (frames >= 2)

        logits = logits.clone()
        stop = logits[:, self._stop]
        logits[:, self._stop] = torch.where((at < text - 3) & (text > 5), _HELD, stop)
        forced = torch.full_like(logits, _HELD)
        forced[:, self._stop] = -_HELD
        logits = torch.where(ends[:, None], forced, logits)

        self._frames[slots] = frames + 1
        self._position[slots] = position
        self.started[slots] = started
        self._complete[slots] = complete
        self._first[slots] = first
        self._previous_end[slots] = newest_end
        self._tail[slots] = tail
        self._earlier[slots] = earlier
        self._token[slots] = tokens
        return logits
