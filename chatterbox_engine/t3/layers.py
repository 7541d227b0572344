"""The transformer blocks of T3's two backbones: each makes queries, keys and values, and finishes around attention."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.spec import RopeSpec, T3Spec

Place = tuple[Tensor, Tensor] | None
"""Cosines and sines (R, C, 1, D) of the positions; None where positions are added to the input instead."""


def rope_tables(spec: RopeSpec, head_width: int, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (positions, head_width) of rotary embedding with Llama 3's scaling (Llama 3.1, 2407.21783).

    Wavelengths beyond original_length / low_freq_factor are stretched by `factor`, those below
    original_length / high_freq_factor are kept, and those between are blended.
    """
    frequency = 1.0 / spec.theta ** (torch.arange(0, head_width, 2, dtype=torch.int64).float() / head_width)
    turns = spec.original_length / (2 * math.pi / frequency)
    blend = (turns - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    frequency = (1 - blend) * frequency / spec.factor + blend * frequency
    angle = torch.outer(torch.arange(positions).float(), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


class RMSNorm(nn.Module):
    """In fp32, rounded before the gain, as Llama's reference does."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class LlamaLayer(nn.Module):
    """One Llama block; q, k, v and gate, up are one matrix each, so that a step reads weights in four long runs."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        inner = spec.heads * spec.head_width
        self.heads = spec.heads
        self.attention_norm = RMSNorm(spec.width, spec.norm_eps)
        self.qkv = nn.Linear(spec.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, spec.width, bias=False)
        self.mlp_norm = RMSNorm(spec.width, spec.norm_eps)
        self.gate_up = nn.Linear(spec.width, 2 * spec.mlp_width, bias=False)
        self.down = nn.Linear(spec.mlp_width, spec.width, bias=False)

    def queries_keys_values(self, x: Tensor, place: Place) -> Tensor:
        """x (R, C, W) -> rotated queries, rotated keys, values: (R, C, 3, H, D)."""
        assert place is not None
        cos, sin = (table.unsqueeze(2) for table in place)
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        turned = qkv[:, :, :2]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
        return torch.cat((turned, qkv[:, :, 2:]), dim=2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residuals: attended (R, C, W) and the gated MLP onto x (R, C, W)."""
        x = x + self.out(attended)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class GPT2Layer(nn.Module):
    """One GPT-2 block: LayerNorm with bias, biased projections, GELU by tanh."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.attention_norm = nn.LayerNorm(spec.width, spec.norm_eps)
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.out = nn.Linear(spec.width, spec.width)
        self.mlp_norm = nn.LayerNorm(spec.width, spec.norm_eps)
        self.up = nn.Linear(spec.width, spec.mlp_width)
        self.down = nn.Linear(spec.mlp_width, spec.width)

    def queries_keys_values(self, x: Tensor, place: Place) -> Tensor:
        """x (R, C, W) -> queries, keys, values: (R, C, 3, H, D)."""
        return self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residuals: attended (R, C, W) and the MLP onto x (R, C, W)."""
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))
