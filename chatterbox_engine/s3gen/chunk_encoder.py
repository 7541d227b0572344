"""The flow's encoder chunk by chunk, from what it keeps of each stream: in tensors that grow, or in pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.s3gen.encoder import Encoder
from chatterbox_engine.s3gen.paged import Pages, few
from chatterbox_engine.s3gen.pages import PagedPast
from chatterbox_engine.s3gen.past import Before, Continuation, Past
from chatterbox_engine.types import FRAMES_PER_TOKEN

Encode = Callable[[Tensor, Tensor, Before, Before], Tensor]
"""Tokens (B, T + lookahead) of lengths (B,), after what came before at the token rate and at the frame rate ->
(B, mel_bins, 2T)."""

_PADDED_TOKENS = 32
"""To a multiple of so many: the encoder is a small part of a call, and so has few shapes."""


@dataclass(slots=True)
class EncoderPast:
    """What the encoder keeps of a stream, at the token rate and at the frame rate: little, for as long as it lasts."""

    low: Past | PagedPast
    high: Past | PagedPast

    def copy(self) -> "EncoderPast":
        """Another stream's, that begins alike."""
        return EncoderPast(self.low.copy(), self.high.copy())


class ChunkEncoder(Protocol):
    """A way over chunks."""

    def begin(self) -> EncoderPast:
        """Of a stream before its first token."""

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        """What to speak next: tokens (B, max(counts) + lookahead), `lengths` of each row's there, of which `counts` are
        spoken now -> (B, mel_bins, 2 max(counts)). The pasts are moved on."""


class GrowingEncoder:
    """By PyTorch's operators, on any device."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def begin(self) -> EncoderPast:
        return EncoderPast(Past(), Past())

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        low = [past.low for past in pasts if isinstance(past.low, Past)]
        high = [past.high for past in pasts if isinstance(past.high, Past)]
        before = Continuation(low, counts, 1), Continuation(high, [FRAMES_PER_TOKEN * count for count in counts], 1)
        return self._encode(tokens, torch.tensor(lengths, device=tokens.device), *before)


class PagedEncoder:
    """Over pages, captured for the shapes that come again."""

    def __init__(self, encode: Encode, encoder: Encoder, graphs: Graphs, kernels: ModuleType) -> None:
        """`kernels`: the module `triton_kernels`."""
        self._encode = encode
        self._encoder = encoder
        spec, (low, high) = encoder.spec, encoder.kept
        sizes = spec.heads, spec.width // spec.heads
        self._low, self._high = Pages(kernels, spec.blocks, *sizes, low), Pages(kernels, spec.up_blocks, *sizes, high)
        self._recurring = Recurring("paged encoder", self._gone_on, graphs)

    def begin(self) -> EncoderPast:
        weight = self._encoder.after_norm.weight
        return EncoderPast(self._low.begin(1, weight), self._high.begin(1, weight))

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        low = [past.low for past in pasts if isinstance(past.low, PagedPast)]
        high = [past.high for past in pasts if isinstance(past.high, PagedPast)]
        plans = [self._low.plan(low, counts), self._high.plan(high, [FRAMES_PER_TOKEN * count for count in counts])]
        before = [torch.cat([past.before[0] for past in each]) for each in (low, high)]
        ends = torch.tensor(lengths, device=tokens.device)
        frames = FRAMES_PER_TOKEN * max(counts)
        if self._recurring.enabled:
            rows = few(len(pasts)) - len(pasts)
            tokens = F.pad(tokens, (0, (self._encoder.lookahead - tokens.shape[1]) % _PADDED_TOKENS, 0, rows))
            ends = F.pad(ends, (0, rows))
            plans, before = ([F.pad(given, (0, 0, 0, rows)) for given in each] for each in (plans, before))
        kept = self._encoder.kept
        mu, *after = self._recurring(tokens, ends, *plans, *before).tensor_split((-sum(kept), -kept[1]), dim=1)
        for each, numbers in zip((low, high), after, strict=True):
            for row, past in enumerate(each):
                past.before = numbers[None, row : row + 1].clone()
        made = FRAMES_PER_TOKEN * (tokens.shape[1] - self._encoder.lookahead)
        return mu[: len(pasts)].unflatten(1, (-1, made))[:, :, :frames]

    def _gone_on(
        self, tokens: Tensor, ends: Tensor, low_plan: Tensor, high_plan: Tensor, low_kept: Tensor, high_kept: Tensor
    ) -> Tensor:
        """What to speak, and what the convolutions keep at each rate, one after the other (B, ...)."""
        only = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        low = self._low.before(low_plan, low_kept, only)
        high = self._high.before(high_plan, high_kept, only)
        mu = self._encode(tokens, ends, low, high)
        return torch.cat((mu.flatten(1), low.kept(), high.kept()), dim=1)
