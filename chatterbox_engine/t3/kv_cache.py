"""The keys and values of every running row, preallocated once."""

import math

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.spec import T3Spec


class KVCache:
    """Keys and values by (layer, key or value, row, head, position). A row is one sequence; CFG takes two.

    The last position of every row is scratch: padded places of a ragged prefill are written there and never read.
    """

    def __init__(self, spec: T3Spec, rows: int, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (spec.layers, 2, rows, spec.heads, positions + 1, spec.head_width)
        self._dtype, self._device = dtype, device
        self.scratch = positions
        self.store: Tensor
        self.allocate()

    def allocate(self) -> None:
        self.store = _zeros(self._shape, self._dtype, self._device)

    def free(self) -> None:
        """Let go of the memory, and of all that is in it, until `allocate`."""
        self.store = torch.empty(0, dtype=self._dtype)

    def write(self, layer: int, rows: Tensor, positions: Tensor, keys_values: Tensor) -> None:
        """rows (R,), positions (R, C); keys_values (R, C, 2, H, D)."""
        self.store[layer][:, rows[:, None], :, positions] = keys_values

    def read(self, layer: int, rows: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` positions: (R, H, L, D) twice; views where `rows` is a slice."""
        keys, values = self.store[layer][:, rows, :, :length]
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
        layers, both, _, heads, _, width = self._shape
        return layers * both * heads * width * self._dtype.itemsize


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, since what is masked must still be finite; on a CPU, of memory that counts only once it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)  # calloc: the system hands pages out on first touch
    return torch.from_numpy(pages).view(dtype).view(shape)
