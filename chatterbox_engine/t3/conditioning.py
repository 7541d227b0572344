"""What T3 hears before the text: speaker, a resampled speech prompt, and emotion."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.spec import T3Spec


class _CrossAttention(nn.Module):
    """Pre-norm attention of `queries` over `memory` with a residual; one norm serves both (Perceiver, 2103.03206)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(1, Q, W), (1, M, W) -> (1, Q, W)"""
        normed, keys = self.norm(queries), self.norm(memory)
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.to_q, normed), (self.to_k, keys), (self.to_v, keys))
        )
        return queries + self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Perceiver(nn.Module):
    """Resamples the prompt to a fixed number of vectors; one attention block is used twice."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        self.pre_attention_query = nn.Parameter(torch.empty(1, spec.perceiver_queries, spec.width))
        self.attn = _CrossAttention(spec.width, spec.perceiver_heads)

    def forward(self, prompt: Tensor) -> Tensor:
        resampled = self.attn(self.pre_attention_query, prompt)
        return self.attn(resampled, resampled)


class Conditioning(nn.Module):
    """Speaker (1 position), prompt (resampled, or as it is) and emotion (1), in that order. Kept in fp32."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        self.spkr_enc = nn.Linear(spec.speaker_width, spec.width)
        self.emotion_adv_fc = nn.Linear(1, spec.width, bias=False) if spec.emotion else None
        self.perceiver = _Perceiver(spec) if spec.perceiver_queries else None

    def voice(self, speaker: Tensor, prompt: Tensor) -> Tensor:
        """What depends on the voice alone: speaker (1, S), prompt embeddings (1, P, W) -> (1 + P or queries, W)."""
        heard = prompt if self.perceiver is None else self.perceiver(prompt)
        return torch.cat((self.spkr_enc(speaker), heard[0]))

    def emotion(self, exaggeration: float) -> Tensor:
        """(1, W)"""
        assert self.emotion_adv_fc is not None
        return self.emotion_adv_fc(torch.tensor([[exaggeration]], device=self.emotion_adv_fc.weight.device))
