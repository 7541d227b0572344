"""The keys and values of every running row, preallocated once."""

import math

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.spec import T3Spec


class KVCache:
    """Keys and values by (layer, row, head, position). A row is one sequence; a request with CFG has two.

    The last position of every row is scratch: padded places of a ragged prefill are written there and never read.
    """

    def __init__(self, spec: T3Spec, rows: int, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (spec.layers, rows, spec.heads, positions + 1, spec.head_width)
        self.keys = _zeros(shape, dtype, device)
        self.values = _zeros(shape, dtype, device)
        self.scratch = positions

    def write(self, layer: int, rows: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """rows (R,), positions (R, C); keys and values (R, H, C, D)."""
        place = (rows[:, None], slice(None), positions)
        self.keys[layer][place] = keys.transpose(1, 2)
        self.values[layer][place] = values.transpose(1, 2)

    def read(self, layer: int, rows: slice | Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` positions: (R, H, L, D) twice; a view where `rows` is a slice."""
        return self.keys[layer, rows, :, :length], self.values[layer, rows, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another, so that live rows stay side by side."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def position_bytes(self) -> int:
        """Bytes that one position of one row takes."""
        layers, _, heads, _, width = self.keys.shape
        return 2 * layers * heads * width * self.keys.element_size()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, since what is masked must still be finite; on a CPU, of memory that counts only once it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)  # calloc: the system hands pages out on first touch
    return torch.from_numpy(pages).view(dtype).view(shape)
