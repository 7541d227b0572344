"""The CPU's own kernels, decode.c and what it includes, compiled for this processor at first use and kept."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffast-math", "-fno-finite-math-only", "-fPIC", "-std=gnu11")


class Linear(ctypes.Structure):
    """A packed linear layer, as decode.c has it."""

    _fields_ = (
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("digits", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Linear) for name in ("qkv", "out", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "attention_norm_bias", "mlp_norm", "mlp_norm_bias")),
    )


class ConvBlock(ctypes.Structure):
    _fields_ = (("conv", Linear), ("gain", ctypes.c_void_p), ("shift", ctypes.c_void_p))


class Resnet(ctypes.Structure):
    _fields_ = (("one", ConvBlock), ("two", ConvBlock), ("residual", Linear))


class Estimator(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("bins", "width", "heads", "head_width", "stages", "blocks", "guided")),
        ("rate", ctypes.c_float),
        ("resnets", ctypes.POINTER(Resnet)),
        ("layers", ctypes.POINTER(Layer)),
        ("down", Linear),
        ("up", Linear),
        ("last", ConvBlock),
        ("project", Linear),
    )


class Page(ctypes.Structure):
    _fields_ = (("memory", ctypes.c_void_p), ("there", ctypes.c_int64))


class Speech(ctypes.Structure):
    _fields_ = (
        ("frames", ctypes.c_int64),
        ("pages", ctypes.POINTER(Page)),
        ("count", ctypes.c_int64),
        ("next", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("before", "x", "mu", "cond", "speaker")),
    )


class Solve(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("speech", ctypes.POINTER(Speech)),
        ("time", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("step_bytes", "layer_bytes", "plane")),
    )


class Convolution(ctypes.Structure):
    _fields_ = (
        ("weights", Linear),
        *((name, ctypes.c_int64) for name in ("inputs", "width", "taps", "dilation", "stride", "padding", "exact")),
        ("activation", ctypes.c_int64),
        ("slope", ctypes.c_float),
        ("alpha", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
    )


class Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "mlp_width", "llama")),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(Layer)),
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "cos", "sin")),
    )


class Cache(ctypes.Structure):
    _fields_ = (("store", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("rows", "positions", "quantised")))


class Source(ctypes.Structure):
    _fields_ = (
        ("harmonics", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("voiced", "sine", "noise")),
        ("weight", ctypes.c_void_p),
    )


class Kept:
    """Tensors into which structures point, and other owners of such memory."""

    def __init__(self) -> None:
        self._owners: list[object] = []

    def pointer(self, tensor: Tensor | None) -> ctypes.c_void_p:
        """Where a tensor's numbers lie in fp32; None is NULL."""
        if tensor is None:
            return pointer(None)
        wide = tensor.detach().float().contiguous()
        self.keep(wide)
        return pointer(wide)

    def norm(self, norm: nn.Module) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
        """A norm's gain and its bias, NULL where it has none."""
        parameters = dict(norm.named_parameters(recurse=False))
        return self.pointer(parameters["weight"]), self.pointer(parameters.get("bias"))

    def keep(self, owner: object) -> None:
        self._owners.append(owner)


NORMALS = 1024
"""Samples of a frame that `source` takes, at most."""


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where this processor or machine cannot have them, which is said once."""
    if _has_avx512():
        return _loaded()
    return narrow() if torch.cpu._is_avx2_supported() else None


@cache
def narrow() -> ctypes.CDLL | None:
    """The kernels as processors with AVX2 alone have them, which those with AVX512 can run, too."""
    return _loaded("-march=x86-64-v3", "-mtune=native")


def _loaded(*flags: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(_built(flags)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        logger.warning("cpu_kernels: decode.c could not be compiled (%s); PyTorch's run instead.", detail.strip()[:300])
        return None
    library.prepare(1)
    return library


def has_tiles() -> bool:
    """The kernels run, and multiply through AMX's tiles."""
    library = kernels()
    return library is not None and bool(library.prepare(1)) and hasattr(library, "solve")


def multiplies_rows() -> bool:
    """The kernels multiply many rows: by AMX's tiles, or by AVX2 where there is no AVX512, with which PyTorch does."""
    return has_tiles() or (instructions() == "AVX2" and not torch.cpu._is_avx512_supported())


def number_dtype(library: ctypes.CDLL) -> torch.dtype:
    """Of rows that the kernels multiply many of."""
    return torch.bfloat16 if library.number_bytes() == 2 else torch.float32


def instructions() -> Literal["AMX", "AVX512", "AVX2"] | None:
    """The widest that the kernels multiply by, None where they do not run."""
    if kernels() is None:
        return None
    if has_tiles():
        return "AMX"
    return "AVX512" if _has_avx512() else "AVX2"


def _has_avx512() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported())


def room(*shape: int) -> Tensor:
    """Numbers in fp32, not yet any. NumPy asks the system for huge pages, of which a large tensor takes far fewer."""
    return torch.from_numpy(np.empty(shape, np.float32))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor's data lie; None is NULL."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _built(flags: tuple[str, ...]) -> Path:
    """The shared library by these flags too, compiled unless it is there. Raises OSError, CalledProcessError."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("there is no C compiler: install gcc")
    target = subprocess.run(
        [compiler, "-march=native", *flags, "-Q", "--help=target"], capture_output=True, text=True, check=False
    )
    if not target.stdout:  # processors that differ must not share what is built for one of them
        raise OSError(f"{compiler} does not say what it builds for: use gcc")
    sources = [path.read_text() for path in sorted(_FOLDER.glob("*.[ch]"))]
    what = (*sources, *_FLAGS, *flags, target.stdout, platform.machine())
    folder = user_cache_path("chatterbox-serve") / "native"
    library = folder / f"decode-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = Path(scratch) / "decode.o", Path(scratch) / "decode.so"
        commands = (
            [compiler, *_FLAGS, *flags, "-c", str(_FOLDER / "decode.c"), "-o", str(compiled)],
            # Linked without -ffast-math, which would set the whole process's floating-point modes.
            [compiler, "-shared", "-fopenmp", str(compiled), "-o", str(linked), "-lmvec", "-lm"],
        )
        for command in commands:
            subprocess.run(command, capture_output=True, text=True, check=True)
        os.replace(linked, library)  # whole or not at all: replicas may compile side by side
    return library
