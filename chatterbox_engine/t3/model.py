"""T3: embeddings, conditioning, transformer and speech head, with the KV cache passed in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel.quantization import quantise
from chatterbox_engine.config import CpuKernels, Quantization
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.conditioning import Conditioning
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.layers import GPT2Layer, LlamaLayer, Place, RMSNorm, rope_tables
from chatterbox_engine.weights import Weights, load, table


class T3Model(nn.Module):
    """`chatterbox.models.t3.T3` without its generation loop."""

    def __init__(self, spec: T3Spec) -> None:
        super().__init__()
        self.spec = spec
        gpt2 = spec.backbone == "gpt2"
        self.cond_enc = Conditioning(spec)
        self.text_emb = table(spec.text_vocab, spec.width)
        self.speech_emb = table(spec.speech_vocab, spec.width)
        if spec.learned_positions:
            self.text_pos_emb = table(spec.max_text_tokens + 2, spec.width)
            self.speech_pos_emb = table(spec.max_speech_tokens + 4, spec.width)
        if gpt2:
            self.pos_emb = table(spec.gpt2_positions, spec.width)
        layer = GPT2Layer if gpt2 else LlamaLayer
        self.layers = nn.ModuleList(layer(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width, spec.norm_eps) if gpt2 else RMSNorm(spec.width, spec.norm_eps)
        self.speech_head = nn.Linear(spec.width, spec.speech_vocab, bias=gpt2)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    @classmethod
    def from_weights(
        cls,
        spec: T3Spec,
        weights: Weights,
        positions: int,
        dtype: torch.dtype,
        device: torch.device,
        quantization: Quantization = "none",
        cpu_kernels: CpuKernels = "auto",
    ) -> "T3Model":
        """Load the reference's tensors; `positions` is the longest row. Raises ModelUnavailable."""
        with torch.device("meta"):
            model = cls(spec)
        load(model, _GPT2Names(weights) if spec.backbone == "gpt2" else _LlamaNames(weights), dtype=dtype)
        load(model.cond_enc, weights, "cond_enc.")  # stays in fp32: it is small, and runs once a voice
        turned = positions + 1 if spec.backbone == "llama" else 0
        cos, sin = rope_tables(spec.rope, spec.head_width, turned)
        model.cos, model.sin = cos.to(dtype), sin.to(dtype)
        quantise(model, quantization, device, cpu_kernels, head="speech_head", whole="cond_enc")
        return model

    @property
    def dtype(self) -> torch.dtype:
        return self.speech_emb.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.speech_emb.weight.device

    def voice_positions(self, prompt_tokens: int) -> int:
        """Positions that `voice_prefix` takes for a voice with so many prompt tokens."""
        return 1 + (self.spec.perceiver_queries or prompt_tokens)

    def voice_prefix(self, speaker: Tensor, prompt_tokens: Tensor) -> Tensor:
        """The part of the prompt that depends on the voice alone, in fp32: (1, S), (1, P) int64 -> (positions, W)."""
        prompt = self.speech_emb(prompt_tokens)
        if self.spec.learned_positions:
            prompt = prompt + self.speech_pos_emb.weight[: prompt_tokens.shape[1]]
        return self.cond_enc.voice(speaker.float(), prompt.float())

    def prompt(
        self, voice_prefix: Tensor, exaggeration: float, text: list[int], conditioned: bool, spoken: Sequence[int] = ()
    ) -> Tensor:
        """Embeddings of a row's prompt (positions, W): voice, emotion, text, the start tokens, and what was spoken.

        The unconditioned row of CFG keeps the text's positions and loses its words.
        """
        spec = self.spec
        words = self.text_emb(torch.tensor(text, device=self.device))
        if not conditioned:
            words = torch.zeros_like(words)
        if spec.learned_positions:
            words = words + self.text_pos_emb.weight[: len(text)]
        first = torch.zeros(spec.start_tokens, dtype=torch.int64, device=self.device)
        parts = [voice_prefix.to(self.dtype), words, self.embed_speech(first + spec.start_speech, first)]
        if spec.emotion:
            parts.insert(1, self.cond_enc.emotion(exaggeration).to(self.dtype))
        if spoken:
            tokens = torch.tensor(spoken, device=self.device)
            parts.append(self.embed_speech(tokens, torch.arange(1, len(spoken) + 1, device=self.device)))
        return torch.cat(parts)

    def text_place(self, voice_positions: int) -> int:
        """Where the text begins in a prompt whose voice takes so many positions."""
        return voice_positions + int(self.spec.emotion)

    def prompt_length(self, voice_positions: int, text_tokens: int) -> int:
        """Positions that `prompt` takes."""
        return self.text_place(voice_positions) + text_tokens + self.spec.start_tokens

    def embed_speech(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Speech tokens (N,) at speech positions (N,) -> (N, W)."""
        x = self.speech_emb(tokens)
        return x + self.speech_pos_emb(positions) if self.spec.learned_positions else x

    def placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (..., W) with the GPT-2's positions (...) of the whole sequence; the Llama turns its queries instead."""
        return x + self.pos_emb(positions) if self.spec.backbone == "gpt2" else x

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
        aligned: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the blocks over x (R, C, W) at positions (R, C), write the cache, attend to its first `length` places.

        `mask` (R, 1, C, L) is True where a query may look; None with `causal` is the plain triangle from place 0,
        None without it is everything. Returns the normed hidden states (R, C, W) and, if `aligned`, the attention
        (R, C, L) of the aligned heads, in fp32 and averaged.
        """
        place: Place = None
        x = self.placed(x, positions)
        if self.spec.backbone == "llama":
            place = self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2)
        followed: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, LlamaLayer | GPT2Layer)
            qkv = layer.queries_keys_values(x, place)
            cache.write(index, rows, positions, qkv[:, :, 1:])
            keys, values = cache.read(index, read_rows, length)
            q = qkv[:, :, 0].transpose(1, 2)
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)
            x = layer.finish(x, attended.transpose(1, 2).flatten(2))
            if aligned:
                heads = [head for place_, head in self.spec.aligned_heads if place_ == index]
                followed += [attention_of(q[:, head], keys[:, head], mask, causal) for head in heads]
        return self.norm(x), torch.stack(followed).mean(dim=0) if followed else None

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (R, W) -> fp32 logits over speech tokens (R, V)."""
        return self.speech_head(hidden).float()


def attention_of(q: Tensor, keys: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """One head's attention: q (R, C, D), keys (R, L, D) -> (R, C, L) fp32; computed beside the fused kernel."""
    scores = torch.matmul(q, keys.transpose(1, 2)).float() / q.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill(~mask[:, 0], -torch.inf)
    return scores.softmax(-1)


class _Names(ABC):
    """Presents the reference's tensors under this model's names."""

    RENAMED: ClassVar[dict[str, str]]

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if not name.startswith("layers."):
            return self._weights.take(self.RENAMED.get(name, name), shape)
        _, index, own = name.split(".", 2)
        return self.of_layer(int(index), own, shape)

    @abstractmethod
    def of_layer(self, index: int, own: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `own` of a layer."""


class _LlamaNames(_Names):
    """transformers' Llama, joining the matrices that a step reads together."""

    RENAMED: ClassVar = {
        "text_pos_emb.weight": "text_pos_emb.emb.weight",
        "speech_pos_emb.weight": "speech_pos_emb.emb.weight",
        "norm.weight": "tfmr.norm.weight",
    }
    JOINED: ClassVar = {
        "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "out.weight": ("self_attn.o_proj.weight",),
        "down.weight": ("mlp.down_proj.weight",),
        "attention_norm.weight": ("input_layernorm.weight",),
        "mlp_norm.weight": ("post_attention_layernorm.weight",),
    }

    def of_layer(self, index: int, own: str, shape: tuple[int, ...]) -> Tensor:
        names = self.JOINED[own]
        part = (shape[0] // len(names), *shape[1:])
        tensors = [self._weights.take(f"tfmr.layers.{index}.{theirs}", part) for theirs in names]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def reference_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a Llama's `T3Model` under the reference's names, what is joined there apart again."""
    named = {}
    for name, tensor in state.items():
        if not name.startswith("layers."):
            named[_LlamaNames.RENAMED.get(name, name)] = tensor
            continue
        _, index, own = name.split(".", 2)
        theirs = _LlamaNames.JOINED[own]
        for part, piece in zip(theirs, tensor.chunk(len(theirs)), strict=True):
            named[f"tfmr.layers.{index}.{part}"] = piece
    return named


class _GPT2Names(_Names):
    """transformers' GPT-2, whose matrices (Conv1D) stand the other way round."""

    RENAMED: ClassVar = {
        "pos_emb.weight": "tfmr.wpe.weight",
        "norm.weight": "tfmr.ln_f.weight",
        "norm.bias": "tfmr.ln_f.bias",
    }
    _MODULES: ClassVar = {
        "attention_norm": "ln_1",
        "qkv": "attn.c_attn",
        "out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }

    def of_layer(self, index: int, own: str, shape: tuple[int, ...]) -> Tensor:
        module, kind = own.split(".")
        name = f"tfmr.h.{index}.{self._MODULES[module]}.{kind}"
        tensor = self._weights.take(name, shape[::-1])
        return tensor.t().contiguous() if tensor.ndim == 2 else tensor
