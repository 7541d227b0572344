"""Where a model's tensors come from: files, memory, or a seed. Modules ask by the reference's names and shapes."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from chatterbox_engine.errors import ModelUnavailable

SCALE = ".scale"
"""Ends the name of the scales (rows, 1, ...) of a tensor that is stored in 8 bits."""


class Weights(Protocol):
    """Tensors by name."""

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`. Raises ModelUnavailable where it is missing or not of `shape`."""


class StateDictWeights:
    """Tensors held in memory, such as a loaded model's `state_dict()`; `where` names the source in errors."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        self._tensors = tensors
        self._where = where

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return _checked(_lookup(self._tensors.get, name), name, shape, self._where)


class SafetensorsWeights:
    """Tensors of a safetensors file, read one by one as they are asked for.

    Raises ModelUnavailable where the file is absent or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise ModelUnavailable(
                f"{path} is missing. Download the whole checkpoint, or point `model` at a folder that has it, "
                "or use model `demo`, which needs no files."
            )
        try:
            self._file = safe_open(path, framework="pt")
            self._names = frozenset(self._file.keys())
            self.metadata: Mapping[str, str] = self._file.metadata() or {}
            """What its maker wrote beside the tensors."""
        except (SafetensorError, OSError) as error:
            raise ModelUnavailable(
                f"{path} cannot be read ({error}). It may be cut short: delete it and download it again."
            ) from error

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return _checked(_lookup(self._read, name), name, shape, str(self._path))

    def _read(self, name: str) -> Tensor | None:
        """A tensor; one of 8-bit numbers times the scale of each row, which lies beside it, where it is stored so."""
        if name not in self._names:
            return None
        tensor = self._file.get_tensor(name)
        if tensor.dtype is not torch.int8:
            return tensor
        return tensor.float() * self._file.get_tensor(name + SCALE)


class RandomWeights:
    """Tensors drawn from a seed by name: the full architecture where real weights are not at hand.

    Matrices are scaled by 1/sqrt(fan-in), so that signals keep their size from layer to layer.
    """

    F0_BIAS_HZ = 150.0
    """HiFT's F0 predictor speaks at about this pitch, so that the harmonic source runs."""
    CALM = 0.1
    """HiFT's last layer is scaled so, since the sine of a large phase would blow up every rounding error."""
    LOG_MAGNITUDE = 0.5
    """HiFT's spectrum is about so loud, so that its noise stays off the clamp."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("f0_predictor.classifier.bias"):
            return torch.full(shape, self.F0_BIAS_HZ)
        if name.endswith("conv_post.bias"):
            return torch.cat((torch.full((shape[0] // 2,), self.LOG_MAGNITUDE), torch.zeros(shape[0] // 2)))
        if len(shape) == 1:
            offset = "bias" in name.rsplit(".", 1)[-1] or name.endswith("running_mean")
            return torch.zeros(shape) if offset else torch.ones(shape)  # ones: gains, Snake's alpha
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        bound = math.sqrt(3.0 / math.prod(shape[1:]))
        if "emb." in name:
            bound = math.sqrt(3.0) * 0.02
        elif name.endswith("conv_post.weight"):
            bound *= self.CALM
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding whose rows are not drawn, since `load` brings them.

    On the meta device the drawing alone would have torch import its compiler, which takes seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def load(module: nn.Module, weights: Weights, prefix: str = "", dtype: torch.dtype = torch.float32) -> None:
    """Fill a module built on the meta device; its parameters have the reference's names behind `prefix`."""
    state = {}
    for name, tensor in tqdm(module.state_dict().items(), f"Loading {prefix}", disable=None, leave=False):
        own = dtype if tensor.is_floating_point() else tensor.dtype
        state[name] = weights.take(prefix + name, tuple(tensor.shape)).to(own)
    module.load_state_dict(state, strict=True, assign=True)
    module.eval().requires_grad_(False)


def _lookup(get: object, name: str) -> Tensor | None:
    """The tensor `name`, or the product of the weight norm that stands in its place.

    Weight norm (Salimans and Kingma, 2016): weight = g v / |v|, the norm taken over all dimensions but the first.
    """
    assert callable(get)
    if (tensor := get(name)) is not None:
        return tensor
    if name.endswith(".weight"):
        stem = name.removesuffix("weight")
        for g_name, v_name in (("parametrizations.weight.original0", "parametrizations.weight.original1"),
                               ("weight_g", "weight_v")):  # fmt: skip
            g, v = get(stem + g_name), get(stem + v_name)
            if g is not None and v is not None:
                return torch._weight_norm(v, g, 0)
    return None


def _checked(tensor: Tensor | None, name: str, shape: tuple[int, ...], where: str) -> Tensor:
    if tensor is None:
        raise ModelUnavailable(f"{where} has no tensor {name!r}: it is not a checkpoint of this model.")
    if tuple(tensor.shape) != shape:
        raise ModelUnavailable(
            f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, expected {shape}: it belongs to another model."
        )
    return tensor
