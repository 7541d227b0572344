"""The flow's encoder: speech-token embeddings in, one hidden state per mel frame out.

A conformer without its convolutions (Gulati et al., 2005.08100), as CosyVoice 2 (2412.10117) uses it: a look-ahead
convolution, blocks at the token rate, upsampling by two, blocks at the frame rate.
Parameters carry the names of the reference's `flow.encoder.*`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.spec import EncoderSpec, S3GenSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN

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

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, W) -> (B, T, W)"""
        y = F.leaky_relu(self.conv1(F.pad(x.transpose(1, 2), (0, self.lookahead))))
        return x + self.conv2(F.pad(y, (2, 0))).transpose(1, 2)


class _Upsample(nn.Module):
    """Repeats each position and smooths it causally."""

    def __init__(self, width: int, rate: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2 * rate + 1)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, W) -> (B, rate T, W)"""
        x = x.repeat_interleave(self.rate, dim=1).transpose(1, 2)
        return self.conv(F.pad(x, (2 * self.rate, 0))).transpose(1, 2)


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

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor | None) -> Tensor:
        """x (B, T, W), positions (2T-1, W), keys (B, 1, 1 or T, T) bool or None -> (B, T, W)"""
        batch, length, width = x.shape
        q = self.linear_q(x).unflatten(-1, (self.heads, -1))  # (B, T, H, D)
        k = self.linear_k(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.linear_v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        p = self.linear_pos(positions).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)  # (H, D, 2T-1)
        by_distance = torch.matmul((q + self.pos_bias_v).transpose(1, 2), p)  # (B, H, T, 2T-1)
        # Row i's score for key j is that of distance i - j, in column T-1-i+j: a view with a row stride shorter by one.
        # Scaling it makes the copy in plain order that the fused attention kernels ask of a bias.
        outer, head, row, _ = by_distance.stride()
        start = by_distance.storage_offset() + length - 1
        bias = by_distance.as_strided((batch, self.heads, length, length), (outer, head, row - 1, 1), start)
        bias = bias * (width // self.heads) ** -0.5
        if keys is not None:
            bias = bias.masked_fill(~keys, -torch.inf)
        y = F.scaled_dot_product_attention((q + self.pos_bias_u).transpose(1, 2), k, v, attn_mask=bias)
        return self.linear_out(y.transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, keys)
        return x + self.feed_forward(self.norm_ff(x))


class Encoder(nn.Module):
    """Token embeddings (B, T, W) -> hidden states (B, 2T, W), where W is `spec.encoder.width`."""

    def __init__(self, spec: S3GenSpec) -> None:
        super().__init__()
        width = spec.encoder.width
        self.embed = _Embed(width)
        self.pre_lookahead_layer = _Lookahead(width, spec.encoder.lookahead)
        self.encoders = nn.ModuleList(_Block(spec.encoder) for _ in range(spec.encoder.blocks))
        self.up_layer = _Upsample(width, FRAMES_PER_TOKEN)
        self.up_embed = _Embed(width)
        self.up_encoders = nn.ModuleList(_Block(spec.encoder) for _ in range(spec.encoder.up_blocks))
        self.after_norm = nn.LayerNorm(width)
        self._table: Tensor | None = None

    def forward(self, x: Tensor, lengths: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Encode token embeddings.

        Args:
            x: (B, T, W). Rows shorter than T are padded on the right, with anything.
            lengths: (B,) int64, each row's tokens, at least 1. None: every row has T, and no mask is made.
            chunk: where given, and no lengths, no place attends beyond its own chunk of so many tokens.

        Returns:
            (B, 2T, W). A row's first 2 * length frames equal those of the row alone; the others mean nothing.
        """
        length = x.shape[1]
        x = self.embed(x)
        if lengths is not None:
            # The embedding's bias makes padding non-zero, and the look-ahead convolution would read it.
            x = x * _valid(lengths, length)[:, :, None]
        x = self.pre_lookahead_layer(x)
        x = self._run(self.encoders, x, lengths, chunk)
        # From here on only attention looks to the right: the upsampling convolution is causal.
        x = self.up_embed(self.up_layer(x))
        x = self._run(
            self.up_encoders,
            x,
            None if lengths is None else lengths * FRAMES_PER_TOKEN,
            None if chunk is None else chunk * FRAMES_PER_TOKEN,
        )
        return self.after_norm(x)

    def _run(self, blocks: nn.ModuleList, x: Tensor, lengths: Tensor | None, chunk: int | None) -> Tensor:
        keys = None if lengths is None else _valid(lengths, x.shape[1])[:, None, None, :]
        if chunk is not None:
            keys = chunk_mask(x.shape[1], chunk)
        positions = self._positions(x)
        for block in blocks:
            x = block(x, positions, keys)
        return x

    def _positions(self, x: Tensor) -> Tensor:
        """Relative positions (2T-1, W) for x (B, T, W): the middle of one table, which doubles when it is too short."""
        length, width = x.shape[1:]
        table = self._table
        if table is None or table.shape[0] < 2 * length - 1 or table.device != x.device or table.dtype != x.dtype:
            rows = 1 << max(length - 1, 255).bit_length()
            self._table = table = relative_positions(rows, width).to(x)
        middle = table.shape[0] // 2
        return table[middle - length + 1 : middle + length]


def _valid(lengths: Tensor, width: int) -> Tensor:
    """(B,) lengths -> (B, width) bool: the places before each row's end."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
