"""T3's transformer step, with the KV cache passed in."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.spec import RopeSpec, T3Spec
from chatterbox_engine.t3.conditioning import Conditioning
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.weights import Weights, load


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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (R, H, C, D) by tables (R, 1, C, D)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class _Layer(nn.Module):
    """One Llama block; q, k, v and gate, up are one matrix each, so that a step reads weights in four long runs."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        inner = spec.heads * spec.head_width
        self.heads = spec.heads
        self.attention_norm = _RMSNorm(spec.width, spec.norm_eps)
        self.qkv = nn.Linear(spec.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, spec.width, bias=False)
        self.mlp_norm = _RMSNorm(spec.width, spec.norm_eps)
        self.gate_up = nn.Linear(spec.width, 2 * spec.mlp_width, bias=False)
        self.down = nn.Linear(spec.mlp_width, spec.width, bias=False)

    def queries_keys_values(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (R, C, W) -> rotated queries, rotated keys, values, each (R, H, C, D)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residuals: attended (R, H, C, D) and the gated MLP onto x (R, C, W)."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class T3Model(nn.Module):
    """Embeddings, conditioning, Llama blocks and the speech head of `chatterbox.models.t3.T3`."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        self.spec = spec
        self.cond_enc = Conditioning(spec)
        self.text_emb = nn.Embedding(spec.text_vocab, spec.width)
        self.text_pos_emb = nn.Embedding(spec.max_text_tokens + 2, spec.width)
        self.speech_emb = nn.Embedding(spec.speech_vocab, spec.width)
        self.speech_pos_emb = nn.Embedding(spec.max_speech_tokens + 4, spec.width)
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.layers))
        self.norm = _RMSNorm(spec.width, spec.norm_eps)
        self.speech_head = nn.Linear(spec.width, spec.speech_vocab, bias=False)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    @classmethod
    def from_weights(
        cls, spec: T3Spec, weights: Weights, positions: int, dtype: torch.dtype, device: torch.device
    ) -> "T3Model":
        """Load the reference's tensors; `positions` is the longest row. Raises ModelUnavailable."""
        with torch.device("meta"):
            model = cls(spec)
        load(model, _Fused(weights), dtype=dtype)
        load(model.cond_enc, weights, "cond_enc.")  # stays in fp32: it is small, and runs once a voice
        cos, sin = rope_tables(spec.rope, spec.head_width, positions + 1)
        model.cos, model.sin = cos.to(dtype), sin.to(dtype)
        return model.to(device)

    @property
    def dtype(self) -> torch.dtype:
        return self.speech_head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.speech_head.weight.device

    def voice_prefix(self, speaker: Tensor, prompt_tokens: Tensor) -> Tensor:
        """The part of the prompt that depends on the voice alone, in fp32: (1, S), (1, P) int64 -> (positions, W)."""
        prompt = self.speech_emb(prompt_tokens) + self.speech_pos_emb.weight[: prompt_tokens.shape[1]]
        return self.cond_enc.voice(speaker.float(), prompt.float())

    def prompt(self, voice_prefix: Tensor, exaggeration: float, text: list[int], conditioned: bool) -> Tensor:
        """Embeddings of a row's prompt (positions, W): voice, emotion, text, and the start token twice.

        The unconditioned row of CFG keeps the text's positions and loses its words.
        """
        condition = torch.cat((voice_prefix, self.cond_enc.emotion(exaggeration))).to(self.dtype)
        words = self.text_emb(torch.tensor(text, device=self.device))
        if not conditioned:
            words = torch.zeros_like(words)
        words = words + self.text_pos_emb.weight[: len(text)]
        first = torch.zeros(2, dtype=torch.int64, device=self.device)
        start = self.embed_speech(first + self.spec.start_speech, first)
        return torch.cat((condition, words, start))

    def prompt_length(self, text_tokens: int) -> int:
        """Positions that `prompt` takes for so many text tokens."""
        return 2 + self.spec.perceiver_queries + text_tokens + 2

    def embed_speech(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Speech tokens (N,) at speech positions (N,) -> (N, W)."""
        return self.speech_emb(tokens) + self.speech_pos_emb(positions)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KVCache,
        rows: Tensor,
        read_rows: slice | Tensor,
        length: int,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Run the blocks over x (R, C, W) at positions (R, C), write the cache, attend to its first `length` places.

        `mask` (R, 1, C, L) is True where a query may look; None with `causal` is the plain triangle from place 0,
        None without it is everything. Returns the normed hidden states (R, C, W).
        """
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            q, k, v = layer.queries_keys_values(x, cos, sin)
            cache.write(index, rows, positions, k, v)
            keys, values = cache.read(index, read_rows, length)
            x = layer.finish(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal))
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (R, W) -> fp32 logits over speech tokens (R, V)."""
        return self.speech_head(hidden).float()


class _Fused:
    """Presents the reference's tensors under this model's names, joining those that a step reads together."""

    _JOINED: ClassVar = {
        "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "out.weight": ("self_attn.o_proj.weight",),
        "down.weight": ("mlp.down_proj.weight",),
        "attention_norm.weight": ("input_layernorm.weight",),
        "mlp_norm.weight": ("post_attention_layernorm.weight",),
    }
    _RENAMED: ClassVar = {
        "text_pos_emb.weight": "text_pos_emb.emb.weight",
        "speech_pos_emb.weight": "speech_pos_emb.emb.weight",
        "norm.weight": "tfmr.norm.weight",
    }

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if not name.startswith("layers."):
            return self._weights.take(self._RENAMED.get(name, name), shape)
        _, index, own = name.split(".", 2)
        names = self._JOINED[own]
        part = (shape[0] // len(names), *shape[1:])
        tensors = [self._weights.take(f"tfmr.layers.{index}.{theirs}", part) for theirs in names]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
