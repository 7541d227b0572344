"""The flow's encoder chunk by chunk, from what it keeps of each stream: in tensors that grow, or in pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Protocol, TypeVar

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
Kept = TypeVar("Kept", bound="EncoderPast")

_PADDED_TOKENS = 32
"""A shape that has not come before is padded to a multiple of so many."""


class EncoderPast(Protocol):
    """What the encoder keeps of a stream; small, and all of it for as long as the stream lasts."""

    def copy(self: Kept) -> Kept:
        """Another stream's, that begins alike."""


class ChunkEncoder(Protocol):
    """A way over chunks."""

    def begin(self) -> EncoderPast:
        """Of a stream before its first token."""

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        """What to speak next: tokens (B, max(counts) + lookahead), `lengths` of each row's there, of which `counts` are
        spoken now -> (B, mel_bins, 2 max(counts)). The pasts are moved on."""


@dataclass(slots=True)
class GrowingPast:
    """At the token rate and at the frame rate."""

    low: Past = field(default_factory=Past)
    high: Past = field(default_factory=Past)

    def copy(self) -> "GrowingPast":
        return GrowingPast(self.low.copy(), self.high.copy())


class GrowingEncoder:
    """By PyTorch's operators, on any device."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def begin(self) -> EncoderPast:
        return GrowingPast()

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        own = [past for past in pasts if isinstance(past, GrowingPast)]
        low = Continuation([past.low for past in own], counts, 1)
        high = Continuation([past.high for past in own], [FRAMES_PER_TOKEN * count for count in counts], 1)
        return self._encode(tokens, torch.tensor(lengths, device=tokens.device), low, high)


@dataclass(slots=True)
class PagedPasts:
    """At the token rate and at the frame rate."""

    low: PagedPast
    high: PagedPast

    def copy(self) -> "PagedPasts":
        return PagedPasts(self.low.copy(), self.high.copy())


class PagedEncoder:
    """Over pages, captured for the shapes that come again."""

    def __init__(self, encode: Encode, encoder: Encoder, graphs: Graphs, kernels: ModuleType) -> None:
        """`kernels`: the module `triton_kernels`."""
        self._encode = encode
        self._encoder = encoder
        spec = encoder.spec
        sizes = spec.heads, spec.width // spec.heads
        layers = spec.blocks, spec.up_blocks
        self._low, self._high = (
            Pages(kernels, *given)
            for given in ((own, *sizes, kept) for own, kept in zip(layers, encoder.kept, strict=True))
        )
        self._recurring = Recurring("paged encoder", self._gone_on, graphs)

    def begin(self) -> EncoderPast:
        weight = self._encoder.after_norm.weight
        return PagedPasts(self._low.begin(1, weight), self._high.begin(1, weight))

    def go_on(
        self, tokens: Tensor, lengths: Sequence[int], counts: Sequence[int], pasts: Sequence[EncoderPast]
    ) -> Tensor:
        own = [past for past in pasts if isinstance(past, PagedPasts)]
        low, high = [past.low for past in own], [past.high for past in own]
        plans = [self._low.plan(low, counts), self._high.plan(high, [FRAMES_PER_TOKEN * count for count in counts])]
        before = [torch.cat([past.before[0] for past in each]) for each in (low, high)]
        ends = torch.tensor(lengths, device=tokens.device)
        streams, frames = len(own), FRAMES_PER_TOKEN * (tokens.shape[1] - self._encoder.lookahead)
        if self._recurring.enabled:
            rows = few(streams) - streams
            padding = (
                0 if self._recurring.recurs(tokens) else (self._encoder.lookahead - tokens.shape[1]) % _PADDED_TOKENS
            )
            tokens = F.pad(tokens, (0, padding, 0, rows))
            ends = F.pad(ends, (0, rows))
            plans, before = ([F.pad(given, (0, 0, 0, rows)) for given in each] for each in (plans, before))
        state = self._recurring(tokens, ends, *plans, *before)
        made, *kept = state.split([state.shape[1] - sum(self._encoder.kept), *self._encoder.kept], dim=1)
        for each, after in zip((low, high), kept, strict=True):
            for row, past in enumerate(each):
                past.before = after[None, row : row + 1].clone()
        return made[:streams].unflatten(1, (-1, FRAMES_PER_TOKEN * (tokens.shape[1] - self._encoder.lookahead)))[
            :, :, :frames
        ]

    def _gone_on(
        self, tokens: Tensor, ends: Tensor, low_plan: Tensor, high_plan: Tensor, low_kept: Tensor, high_kept: Tensor
    ) -> Tensor:
        """What to speak, and what the convolutions keep at each rate, one after the other (B, ...)."""
        only = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        low = self._low.before(low_plan, low_kept, only)
        high = self._high.before(high_plan, high_kept, only)
        mu = self._encode(tokens, ends, low, high)
        return torch.cat((mu.flatten(1), low.kept(), high.kept()), dim=1)
