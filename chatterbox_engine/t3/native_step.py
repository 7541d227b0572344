"""A decode step's transformer by the CPU's own kernels: every layer in one call."""

import ctypes

import torch
from torch import Tensor

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native import pointer
from chatterbox_engine.accel.native_linear import NativeLinear
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.layers import GPT2Layer, LlamaLayer
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.sampling import Filters, draw_natively

_HEAD_WIDTH = 64
"""The only one that the kernels are written for."""


class NativeStep:
    """`T3Model.forward` for one new position of each row, over packed weights and a cache in bf16 or 8 bits.

    Sums are in fp32.
    """

    device = "CPU"
    """Whose kernels they are."""

    def __init__(self, model: T3Model, cache: KVCache) -> None:
        kernels = native.kernels()
        assert kernels is not None
        self.kernels = kernels
        self._model = model
        self._cache = cache
        self._kept = native.Kept()
        spec = model.spec
        layers = [self._layer(layer) for layer in model.layers]
        self._layers = (native.Layer * len(layers))(*layers)
        cos, sin = (self._kept.pointer(table) for table in (model.cos, model.sin))
        norm, norm_bias = self._kept.norm(model.norm)
        self._struct = native.Model(
            spec.layers, spec.width, spec.heads, spec.mlp_width, int(spec.backbone == "llama"), spec.norm_eps,
            self._layers, norm, norm_bias, cos, sin,
        )  # fmt: skip
        self._aligned = torch.tensor(spec.aligned_heads, dtype=torch.int64).reshape(-1, 2)

    @staticmethod
    def runs(model: T3Model) -> bool:
        """The kernels are there, and fit the model as it was loaded."""
        packed = all(isinstance(layer.qkv, NativeLinear) for layer in model.layers)
        return model.spec.head_width == _HEAD_WIDTH and model.dtype == torch.bfloat16 and packed

    def __call__(
        self, x: Tensor, positions: Tensor, first_row: int, length: int, aligned: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x (R, W) at positions (R,) of the rows from first_row on.

        Returns the normed hidden states (R, W) and, if `aligned`, the attention (R, 1, length) of the aligned heads,
        averaged.
        """
        rows, width = x.shape
        x = x.float().contiguous()
        positions = positions.contiguous()
        hidden = torch.empty(rows, width)
        heads = len(self._aligned) if aligned else 0
        followed = torch.empty(heads, rows, length)
        store = self._cache.store
        cache = native.Cache(pointer(store), store.shape[2], store.shape[4], int(self._cache.quantised))
        failed = self.kernels.decode(
            ctypes.byref(self._struct), ctypes.byref(cache), pointer(x), pointer(positions), ctypes.c_int64(first_row),
            ctypes.c_int64(rows), pointer(hidden), pointer(self._aligned), ctypes.c_int64(heads),
            pointer(followed), ctypes.c_int64(length),
        )  # fmt: skip
        if failed:
            raise MemoryError("A decode step's activations do not fit in memory.")
        return hidden, followed.mean(dim=0)[:, None] if heads else None

    def draw(
        self, logits: Tensor, slots: Tensor, seen: Tensor, filters: Filters, seeds: Tensor, steps: Tensor
    ) -> Tensor:
        """See `draw_natively`."""
        return draw_natively(self.kernels, logits, slots, seen, filters, seeds, steps)

    def _layer(self, layer: torch.nn.Module) -> native.Layer:
        assert isinstance(layer, LlamaLayer | GPT2Layer)
        up = layer.gate_up if isinstance(layer, LlamaLayer) else layer.up
        linears = [part.struct for part in (layer.qkv, layer.out, up, layer.down) if isinstance(part, NativeLinear)]
        return native.Layer(*linears, *self._kept.norm(layer.attention_norm), *self._kept.norm(layer.mlp_norm))
