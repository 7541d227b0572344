"""Noise that is a function of (seed, place) alone.

A stream's noise must not depend on its batch, its slot or on how its utterance was cut into chunks, and must be
drawable inside a captured graph. So each number is a hash of its place: 32-bit words are mixed with the "lowbias32"
finaliser (C. Wellons, hash-prospector) and turned into uniform, exponential or normal numbers.
"""

import ctypes
import math
from enum import IntEnum
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from chatterbox_engine.accel import native
from chatterbox_engine.accel.gpu_kernels import tried

_MASK = 0xFFFFFFFF
_BLOCK = 1024
"""Numbers that one program of a GPU makes."""


class Domain(IntEnum):
    """What the noise is for, so that no two uses of one seed draw the same numbers."""

    SAMPLING = 1
    FLOW = 2
    PHASE = 3
    SOURCE = 4


def _low(words: Tensor) -> Tensor:
    """The low 32 bits of int64 numbers, as int32 of the same bits."""
    return words.to(torch.int32)


def _mix(word: Tensor) -> Tensor:
    """Mix 32-bit words held in int32: products wrap, and the masks make its shifts logical ones."""
    word = word ^ ((word >> 16) & 0xFFFF)
    word = word * 0x7FEB352D
    word = word ^ ((word >> 15) & 0x1FFFF)
    word = word * (0x846CA68B - 2**32)
    return word ^ ((word >> 16) & 0xFFFF)


def key_of(domain: Domain, lane: int) -> int:
    """Sets the numbers of a domain's lane apart from all others."""
    return 0x9E3779B9 * (2 * int(domain) + lane + 1)


def _words(seeds: Tensor, domain: Domain, places: Tensor, lane: int) -> Tensor:
    """Hash of (seed, domain, place, lane): seeds (B,) and places (B, N) int64 -> (B, N) int64 below 2**32."""
    key = _mix(_low(seeds + key_of(domain, lane)))
    key = _mix(key ^ _low(seeds >> 32))[:, None]
    high = _mix(key ^ _low(places >> 32))
    return _mix(_mix(_low(places) ^ high) + key).long() & _MASK


def uniform(seeds: Tensor, domain: Domain, places: Tensor, lane: int = 0) -> Tensor:
    """Uniform float64 numbers in (0, 1): seeds (B,) int64, places (B, N) int64 -> (B, N)."""
    return (_words(seeds, domain, places, lane).double() + 0.5) / 2**32


def exponential(seeds: Tensor, domain: Domain, places: Tensor) -> Tensor:
    """Exp(1) float32 numbers, (B,), (B, N) int64 -> (B, N)."""
    return -torch.log(uniform(seeds, domain, places)).float()


def normal(seeds: Tensor, domain: Domain, places: Tensor) -> Tensor:
    """Standard normal float32 numbers by Box and Muller's transform, (B,), (B, N) int64 -> (B, N)."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(seeds, domain, places, 0)))
    angle = (2.0 * math.pi) * uniform(seeds, domain, places, 1)
    return (radius * torch.cos(angle)).float()


def normals(seeds: Tensor, domain: Domain, starts: Tensor, count: int) -> Tensor:
    """Standard normal float32 numbers at the `count` places from `starts` on: (B,), (B,) int64 -> (B, count).

    By the engine's own kernels where they run; those differ from `normal` by roundings alone.
    """
    if seeds.device.type == "cuda" and (gpu := _gpu_kernels()) is not None:
        return normals_by(gpu, seeds, domain, starts, count)
    kernels = native.kernels() if seeds.device.type == "cpu" else None
    if kernels is None:
        return normal(seeds, domain, starts[:, None] + torch.arange(count, device=seeds.device))
    seeds, starts, made = seeds.contiguous(), starts.contiguous(), torch.empty(len(seeds), count)
    kernels.normals(
        native.pointer(seeds), ctypes.c_int64(domain), native.pointer(starts), ctypes.c_int64(len(seeds)),
        ctypes.c_int64(count), native.pointer(made),
    )  # fmt: skip
    return made


def normals_by(kernels: ModuleType, seeds: Tensor, domain: Domain, starts: Tensor, count: int) -> Tensor:
    """`normals` by the module `triton_noise`."""
    made = torch.empty(len(seeds), count, device=seeds.device)
    if count:
        kernels.normals[(-(-count // _BLOCK), len(seeds))](
            seeds.contiguous(), starts.contiguous(), made, count,
            RADIUS=key_of(domain, 0), ANGLE=key_of(domain, 1), BLOCK=_BLOCK,
        )  # fmt: skip
    return made


@cache
def _gpu_kernels() -> ModuleType | None:
    """Tried once; None where they do not run, which is said."""
    if not torch.cuda.is_available():
        return None

    def kernels() -> ModuleType:
        from chatterbox_engine.accel import triton_noise

        zero = torch.zeros(1, dtype=torch.int64, device="cuda")
        normals_by(triton_noise, zero, Domain.FLOW, zero, 1)
        return triton_noise

    return tried("The GPU's own noise", torch.device("cuda"), kernels)
