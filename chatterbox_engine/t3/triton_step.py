"""A decode step's transformer by the GPU's own kernels: a quarter of the launches that PyTorch's operators take."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel.gpu_kernels import tried
from chatterbox_engine.accel.noise import Domain, key_of
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.layers import GPT2Layer, LlamaLayer
from chatterbox_engine.t3.model import T3Model, attention_of
from chatterbox_engine.t3.sampling import Filters

_PLACES = 128
"""Of the cache in one go."""
_NUMBERS = 1024
"""Of the MLP in one program."""


class TritonStep:
    """`T3Model.forward` for one new position of each row, and the draw, over a cache in the model's own numbers."""

    device = "GPU"
    """Whose kernels they are."""

    def __init__(self, model: T3Model, cache: KVCache, kernels: ModuleType) -> None:
        """`kernels`: the module `triton_kernels`."""
        self._model = model
        self._cache = cache
        self._kernels = kernels

    @classmethod
    def of(cls, model: T3Model, cache: KVCache) -> "TritonStep | None":
        """None where it does not fit the model and its cache, or does not run here, which is said."""
        width = model.spec.head_width
        if model.device.type != "cuda" or cache.quantised or width & (width - 1):
            return None

        def step() -> TritonStep:
            from chatterbox_engine.t3 import triton_kernels

            made = cls(model, cache, triton_kernels)
            made.try_out()
            return made

        return tried("gpu_kernels: T3's", model.device, step)

    def try_out(self) -> None:
        """Run every kernel once, over nobody's places."""
        device, spec = self._model.device, self._model.spec
        nobody = torch.full((1,), self._cache.scratch, device=device)
        self(torch.zeros(1, spec.width, dtype=self._model.dtype, device=device), nobody, 0, 1)
        if not spec.penalty_last:
            zero = torch.zeros(1, dtype=torch.int64, device=device)
            one = torch.ones(1, 1, device=device)
            seen = torch.zeros(1, spec.speech_vocab, dtype=torch.bool, device=device)
            filters = Filters(one, one, one, one.double(), zero[:, None])
            self.draw(torch.zeros(1, spec.speech_vocab, device=device), zero, seen, filters, zero, zero)

    def __call__(
        self, x: Tensor, positions: Tensor, first_row: int, length: int, aligned: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x (R, W), which is overwritten, at positions (R,) of the rows from first_row on, of which the first `length`
        places are read.

        Returns the normed hidden states (R, W) and, if `aligned`, the attention (R, 1, length) of the aligned heads,
        averaged.
        """
        model, spec = self._model, self._model.spec
        x = x.contiguous()
        delta: Tensor | None = None
        followed: list[Tensor] = []
        rows = slice(first_row, first_row + len(x))
        mask = torch.arange(length, device=x.device) <= positions[:, None, None, None] if aligned else None
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, LlamaLayer | GPT2Layer)
            qkv = layer.qkv(self._normed(x, delta, layer.attention_norm))
            qkv = qkv.contiguous()  # a quantised product may lie otherwise
            attended, q = self._attended(qkv, index, positions, first_row, length, aligned)
            delta = layer.out(attended).contiguous()
            if mask is not None:
                keys = self._cache.read(index, rows, length)[0]
                heads = [head for place, head in spec.aligned_heads if place == index]
                followed += [attention_of(q[:, None, head], keys[:, head], mask, False) for head in heads]
            normed = self._normed(x, delta, layer.mlp_norm)
            if isinstance(layer, LlamaLayer):
                delta = layer.down(self._gated(layer.gate_up(normed).contiguous())).contiguous()
            else:
                delta = layer.down(F.gelu(layer.up(normed), approximate="tanh")).contiguous()
        return self._normed(x, delta, model.norm), torch.stack(followed).mean(dim=0) if followed else None

    def draw(
        self, logits: Tensor, slots: Tensor, seen: Tensor, filters: Filters, seeds: Tensor, steps: Tensor
    ) -> Tensor:
        """`process` and `draw` in one launch, where nothing is sorted and the penalty comes first: tokens (S,).

        logits (S, V), contiguous; the rest has a row for every slot, of which slots (S,) are meant. The token is the
        same one unless two are as close as roundings.
        """
        drawn = torch.empty_like(slots)
        vocabulary = logits.shape[1]
        self._kernels.draw[(len(slots),)](
            logits, slots, seen, filters.repetition_penalty, filters.temperature, filters.min_p, seeds, steps, drawn,
            vocabulary, KEY=key_of(Domain.SAMPLING, 0), BLOCK=_power_of_two(vocabulary), num_warps=16,
        )  # fmt: skip
        return drawn

    def _normed(self, x: Tensor, delta: Tensor | None, norm: nn.Module) -> Tensor:
        """x (R, W) += delta, in place; returns its norm."""
        out = torch.empty_like(x)
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self._kernels.add_norm[(len(x),)](
            x, x if delta is None else delta, norm.weight, x if bias is None else bias, out, self._model.spec.norm_eps,
            x.shape[1], ADDS=delta is not None, CENTRED=bias is not None, BLOCK=_power_of_two(x.shape[1]),
        )  # fmt: skip
        return out

    def _attended(
        self, qkv: Tensor, layer: int, positions: Tensor, first_row: int, length: int, asked: bool
    ) -> tuple[Tensor, Tensor]:
        """qkv (R, 3 H D), of which keys and values go to the cache, -> (R, H D), and the queries (R, H, D), if `asked`
        for."""
        model, spec = self._model, self._model.spec
        out = qkv.new_empty(len(qkv), spec.heads, spec.head_width)
        queries = torch.empty_like(out) if asked else out
        cache = self._cache.store[layer][:, first_row:]
        self._kernels.attend[(len(qkv), spec.heads)](
            qkv, model.cos, model.sin, positions, queries, cache, out, *cache.stride()[:3], length,
            spec.head_width**-0.5, TURNS=spec.backbone == "llama", ASKED=asked, HEADS=spec.heads,
            WIDTH=spec.head_width, BLOCK=_PLACES, num_warps=8,
        )  # fmt: skip
        return out.flatten(1), queries

    def _gated(self, gate_up: Tensor) -> Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._kernels.gate[(rows, -(-width // _NUMBERS))](gate_up, out, width, BLOCK=_NUMBERS)
        return out


def _power_of_two(count: int) -> int:
    """The least that is not below."""
    return 1 << (count - 1).bit_length()
