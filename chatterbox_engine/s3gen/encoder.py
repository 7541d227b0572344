"""The flow's encoder: speech-token embeddings in, one hidden state per mel frame out.

A conformer without its convolutions (Gulati et al., 2005.08100), as CosyVoice 2 (2412.10117) uses it: a look-ahead
convolution, blocks at the token rate, upsampling by two, blocks at the frame rate.
Parameters carry the names of the reference's `flow.encoder.*`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.s3gen.past import Before, Nothing
from chatterbox_engine.spec import EncoderSpec, S3GenSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN

Positions = Callable[[int, int], Tensor]
"""Relative positions of so many queries, the last of so many keys."""

_BLOCK_EPS = 1e-12
"""Of the blocks' layer norms; the other norms have torch's default."""


def relative_positions(length: int, width: int) -> Tensor:
    """Sinusoids (2 length - 1, width), float32, of the distances length-1, ..., 0, ..., 1-length (query - key)."""
    distance = torch.arange(length - 1, -length, -1, dtype=torch.float32, device="cpu")
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device="cpu") * (-math.log(10_000.0) / width))
    angle = distance[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def chunk_mask(length: int, chunk: int) -> Tensor:
    """(1, 1, length, length) bool: each place may look at its own `chunk` and at all before it (CosyVoice 2)."""
    own = torch.arange(length) // chunk
    return (own <= own[:, None])[None, None]


class _Embed(nn.Module):
    """Linear and norm, scaled by sqrt(width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


class _Lookahead(nn.Module):
    """Mixes the next `lookahead` tokens and, through the second convolution, the two before into each token."""

    def __init__(self, width: int, lookahead: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, lookahead + 1)
        self.conv2 = nn.Conv1d(width, width, 3)
        self.lookahead = lookahead
        self.before = 2

    def forward(self, x: Tensor, before: Before) -> Tensor:
        """x (B, T + lookahead, W) -> (B, T, W)"""
        y = F.leaky_relu(self.conv1(x.transpose(1, 2))).transpose(1, 2)
        return x[:, : y.shape[1]] + self.conv2(before.extend(y, self.before).transpose(1, 2)).transpose(1, 2)


class _Upsample(nn.Module):
    """Repeats each position and smooths it causally."""

    def __init__(self, width: int, rate: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2 * rate + 1)
        self.rate = rate
        self.before = 2 * rate

    def forward(self, x: Tensor, before: Before) -> Tensor:
        """x (B, T, W) -> (B, rate T, W)"""
        x = before.extend(x.repeat_interleave(self.rate, dim=1), self.before)
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class _RelativeAttention(nn.Module):
    """Self-attention over relative positions (Transformer-XL, 1901.02860, section 3.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: Tensor, positions: Positions, before: Before) -> Tensor:
        """x (B, T, W) -> (B, T, W)"""
        q = self.linear_q(x).unflatten(-1, (self.heads, -1))  # (B, T, H, D)
        k = self.linear_k(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.linear_v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        placed = (q + self.pos_bias_v).transpose(1, 2)  # (B, H, T, D)

        def by_distance(rows: slice, queries: int, keys: int) -> Tensor:
            p = self.linear_pos(positions(queries, keys)).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
            return torch.matmul(placed[rows, :, :queries], p)

        return self.linear_out(before.attend((q + self.pos_bias_u).transpose(1, 2), k, v, by_distance))


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x)))


class _Block(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(spec.width, eps=_BLOCK_EPS)
        self.self_attn = _RelativeAttention(spec.width, spec.heads)
        self.norm_ff = nn.LayerNorm(spec.width, eps=_BLOCK_EPS)
        self.feed_forward = _FeedForward(spec.width, spec.mlp_width)

    def forward(self, x: Tensor, positions: Positions, before: Before) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, before)
        return x + self.feed_forward(self.norm_ff(x))


class Encoder(nn.Module):
    """Token embeddings (B, T, W) -> hidden states (B, 2T, W), where W is `spec.encoder.width`."""

    def __init__(self, spec: S3GenSpec) -> None:
        super().__init__()
        self.spec = spec.encoder
        width = spec.encoder.width
        self.embed = _Embed(width)
        self.pre_lookahead_layer = _Lookahead(width, spec.encoder.lookahead)
        self.encoders = nn.ModuleList(_Block(spec.encoder) for _ in range(spec.encoder.blocks))
        self.up_layer = _Upsample(width, FRAMES_PER_TOKEN)
        self.up_embed = _Embed(width)
        self.up_encoders = nn.ModuleList(_Block(spec.encoder) for _ in range(spec.encoder.up_blocks))
        self.after_norm = nn.LayerNorm(width)
        self._tables: list[Tensor] = []
        """Of relative positions, the longest last. None is let go: a captured graph reads the one that it was given."""

    def forward(self, x: Tensor, lengths: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Encode token embeddings.

        Args:
            x: (B, T, W). Rows shorter than T are padded on the right, with anything.
            lengths: (B,) int64, each row's tokens, at least 1. None: every row has T, and no mask is made.
            chunk: where given, no place attends beyond its own chunk of so many tokens.

        Returns:
            (B, 2T, W). A row's first 2 * length frames equal those of the row alone; the others mean nothing.
        """
        low, high = (
            Nothing(_mask(length, None if lengths is None else rate * lengths, None if chunk is None else rate * chunk))
            for rate, length in ((1, x.shape[1]), (FRAMES_PER_TOKEN, FRAMES_PER_TOKEN * x.shape[1]))
        )
        return self._run(F.pad(self._embedded(x, lengths), (0, 0, 0, self.lookahead)), low, high)

    def go_on(self, x: Tensor, lengths: Tensor, low: Before, high: Before) -> Tensor:
        """Encode the token embeddings that come after those of earlier calls.

        Args:
            x: (B, T + lookahead, W).
            lengths: (B,) int64, each row's tokens: those whose frames are wanted and, unless they end the utterance,
                the look-ahead after them.
            low, high: what came before, at the token rate and at the frame rate.

        Returns:
            (B, 2T, W).
        """
        return self._run(self._embedded(x, lengths), low, high)

    @property
    def kept(self) -> tuple[int, int]:
        """Numbers that its convolutions keep of a row, at the token rate and at the frame rate."""
        return self.spec.width * self.pre_lookahead_layer.before, self.spec.width * self.up_layer.before

    @property
    def lookahead(self) -> int:
        return self.pre_lookahead_layer.lookahead

    def _embedded(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The embedding's bias makes padding non-zero, and the look-ahead convolution would read it."""
        x = self.embed(x)
        return x if lengths is None else x * _valid(lengths, x.shape[1])[:, :, None]

    def _run(self, x: Tensor, low: Before, high: Before) -> Tensor:
        """x (B, T + lookahead, W) -> (B, 2T, W)"""
        x = self.pre_lookahead_layer(x, low)
        for block in self.encoders:
            x = block(x, self._positions, low)
        # From here on only attention looks to the right: the upsampling convolution is causal.
        x = self.up_embed(self.up_layer(x, high))
        for block in self.up_encoders:
            x = block(x, self._positions, high)
        return self.after_norm(x)

    def _positions(self, queries: int, keys: int) -> Tensor:
        """Relative positions (keys + queries - 1, W) of the last `queries` of `keys` places.

        They are the middle of one table, which doubles when it is too short.
        """
        weight = self.after_norm.weight
        if self._tables and (self._tables[-1].device, self._tables[-1].dtype) != (weight.device, weight.dtype):
            self._tables.clear()
        if not self._tables or self._tables[-1].shape[0] < 2 * keys - 1:
            rows = 1 << max(keys - 1, 255).bit_length()
            self._tables.append(relative_positions(rows, len(weight)).to(weight))
        table = self._tables[-1]
        middle = table.shape[0] // 2
        return table[middle - keys + 1 : middle + queries]


def _mask(length: int, lengths: Tensor | None, chunk: int | None) -> Tensor | None:
    """Where the places of rows attend: (B or 1, 1, 1 or length, length) bool, or None for everywhere."""
    valid = None if lengths is None else _valid(lengths, length)[:, None, None]
    if chunk is None:
        return valid
    return chunk_mask(length, chunk) if valid is None else valid & chunk_mask(length, chunk)


def _valid(lengths: Tensor, width: int) -> Tensor:
    """(B,) lengths -> (B, width) bool: the places before each row's end."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
