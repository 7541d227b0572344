"""The engine's own modules, made trainable: the checkpoint's tensors are theirs, under the reference's names."""

from torch import nn

from chatterbox_engine.weights import RandomWeights, load


def fresh(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Fill a module built on the meta device with small random weights, and let it learn."""
    load(module, RandomWeights(seed), prefix)
    module.requires_grad_(True)
