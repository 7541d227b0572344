"""The engine's own modules, made trainable: the checkpoint's tensors are theirs, under the reference's names."""

import torch
from torch import Tensor, nn

from chatterbox_engine.weights import Weights, load
from training.speech_tokenizer import BEGINNINGS, PITCHES, SOUNDS


def begin(module: nn.Module, weights: Weights, prefix: str = "") -> None:
    """Fill a module built on the meta device, and let it learn."""
    load(module, weights, prefix)
    module.requires_grad_(True)


class CodeTable(nn.Module):
    """Rows for all 6,561 codes as sums of a sound's and of a pitch's: rare codes are known from common ones."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sound = nn.Parameter(torch.randn(SOUNDS * BEGINNINGS, width, generator=generator) * width**-0.5)
        self.pitch = nn.Parameter(torch.randn(PITCHES, width, generator=generator) * width**-0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """(...) -> (..., W)"""
        return self.sound[codes // PITCHES] + self.pitch[codes % PITCHES]

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        """Take on the sums nearest to `rows` (6561, W), or more, of a checkpoint."""
        table = rows[: SOUNDS * BEGINNINGS * PITCHES].unflatten(0, (-1, PITCHES))
        self.sound.copy_(table.mean(1))
        self.pitch.copy_(table.mean(0) - table.mean((0, 1)))

    def rows(self) -> Tensor:
        """(6561, W)"""
        return (self.sound[:, None] + self.pitch).flatten(0, 1)
