"""The engine's own modules, made trainable: the checkpoint's tensors are theirs, under the reference's names."""

import torch
from torch import Tensor, nn

from chatterbox_engine.weights import RandomWeights, load
from training.speech_tokenizer import BEGINNINGS, PITCHES, SOUNDS


def fresh(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Fill a module built on the meta device with small random weights, and let it learn."""
    load(module, RandomWeights(seed), prefix)
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

    def rows(self) -> Tensor:
        """(6561, W)"""
        return (self.sound[:, None] + self.pitch).flatten(0, 1)
