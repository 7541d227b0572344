"""Noise that is a function of (seed, place) alone.

A stream's noise must not depend on its batch, its slot or on how its utterance was cut into chunks, and must be
drawable inside a captured graph. So each number is a hash of its place: 32-bit words are mixed with the "lowbias32"
finaliser (C. Wellons, hash-prospector) and turned into uniform, exponential or normal numbers.
"""

import math
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Domain(IntEnum):
    """What the noise is for, so that no two uses of one seed draw the same numbers."""

    SAMPLING = 1
    FLOW = 2
    PHASE = 3
    SOURCE = 4
    PIECE = 5


def _mix(word: Tensor) -> Tensor:
    """Mix 32-bit words held in int64; the products wrap, and the mask keeps their low 32 bits."""
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _MASK
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _MASK
    return word ^ (word >> 16)


def _words(seeds: Tensor, domain: Domain, places: Tensor, lane: int) -> Tensor:
    """Hash of (seed, domain, place, lane): seeds (B,) and places (B, N) int64 -> (B, N) int64 below 2**32."""
    key = _mix(((seeds & _MASK) + (0x9E3779B9 * (2 * int(domain) + lane + 1) & _MASK)) & _MASK)
    key = _mix(key ^ ((seeds >> 32) & _MASK))
    high = _mix(key[:, None] ^ ((places >> 32) & _MASK))
    return _mix((_mix((places & _MASK) ^ high) + key[:, None]) & _MASK)


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


def derive_seed(seed: int, index: int) -> int:
    """The seed of an utterance's piece `index`; piece 0 keeps the utterance's own."""
    if index == 0:
        return seed
    place = torch.tensor([[index]])
    high, low = (_words(torch.tensor([seed]), Domain.PIECE, place, lane).item() for lane in (0, 1))
    return ((int(high) << 32) | int(low)) & (2**63 - 1)
