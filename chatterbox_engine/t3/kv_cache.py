"""The keys and values of every running row, preallocated once."""

import torch
from torch import Tensor

from chatterbox_engine.accel.memory import zeros
from chatterbox_engine.spec import T3Spec

_LARGEST = 127
_SCALE_BYTES = 4


class KVCache:
    """Keys and values by (layer, key or value, row, head, position). A row is one sequence; CFG takes two.

    The last position of every row is scratch: padded places of a ragged prefill are written there and never read.
    Quantised, a head's key or value is 8-bit numbers with an fp32 scale behind them; reads make `dtype` of those.
    """

    def __init__(
        self,
        spec: T3Spec,
        rows: int,
        positions: int,
        dtype: torch.dtype,
        device: torch.device,
        quantised: bool = False,
    ) -> None:
        self.quantised = quantised
        self._width = spec.head_width
        place = spec.head_width + _SCALE_BYTES if quantised else spec.head_width
        self._shape = (spec.layers, 2, rows, spec.heads, positions + 1, place)
        self._dtype, self._device = dtype, device
        self.scratch = positions
        self.store: Tensor
        self.allocate()

    def allocate(self) -> None:
        self.store = zeros(self._shape, self._stored, self._device)  # since what is masked must still be finite

    def free(self) -> None:
        """Let go of the memory, and of all that is in it, until `allocate`."""
        self.store = torch.empty(0, dtype=self._stored)

    def write(self, layer: int, rows: Tensor, positions: Tensor, keys_values: Tensor) -> None:
        """rows (R,), positions (R, C); keys_values (R, C, 2, H, D)."""
        if self.quantised:
            keys_values = _quantised(keys_values)
        self.store[layer][:, rows[:, None], :, positions] = keys_values

    def read(self, layer: int, rows: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` positions: (R, H, L, D) twice; views where `rows` is a slice and nothing is quantised."""
        both = self.store[layer][:, rows, :, :length]
        if self.quantised:
            both = (both[..., : self._width] * both[..., self._width :].view(torch.float32)).to(self._dtype)
        keys, values = both
        return keys, values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another, so that live rows stay side by side."""
        self.store[:, :, target, :, :length] = self.store[:, :, source, :, :length]

    def save(self, row: int, length: int) -> Tensor:
        """A copy of the first `length` positions of a row: (layers, 2, H, L, D)."""
        return self.store[:, :, row, :, :length].clone()

    def restore(self, row: int, saved: Tensor) -> None:
        """Begin a row with what `save` kept."""
        self.store[:, :, row, :, : saved.shape[3]] = saved

    @property
    def position_bytes(self) -> int:
        """Bytes that one position of one row takes."""
        layers, both, _, heads, _, place = self._shape
        return layers * both * heads * place * self._stored.itemsize

    @property
    def _stored(self) -> torch.dtype:
        return torch.int8 if self.quantised else self._dtype


def _quantised(x: Tensor) -> Tensor:
    """(..., D) -> int8 (..., D + 4): 8-bit numbers, symmetric, and the bytes of their scale."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=1e-12) / _LARGEST
    return torch.cat(((wide / scale).round().to(torch.int8), scale.view(torch.int8)), dim=-1)
