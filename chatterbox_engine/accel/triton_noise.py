"""`accel.noise` for Triton: the same numbers but for roundings. Importing this takes the compiler with it."""

import triton
import triton.language as tl


@triton.jit
def mix(word):
    """The finaliser, of uint32."""
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def words(seed, place, KEY: tl.constexpr):
    """uint32 of a seed and places, int64. KEY: of the domain and the lane."""
    key = mix((seed + KEY).to(tl.uint32))
    key = mix(key ^ (seed >> 32).to(tl.uint32))
    return mix(mix(place.to(tl.uint32) ^ mix(key ^ (place >> 32).to(tl.uint32))) + key)


@triton.jit
def uniform(seed, place, KEY: tl.constexpr):
    """Uniform float64 numbers in (0, 1)."""
    return (words(seed, place, KEY).to(tl.float64) + 0.5) / 4294967296.0


@triton.jit
def exponential(seed, place, KEY: tl.constexpr):
    """Exp(1) float32 numbers."""
    return minus_log(words(seed, place, KEY))


@triton.jit
def minus_log(word):
    """-log(u) in float32, u = (word + 0.5) / 2**32: without float64, of which many GPUs do little, and without their
    own logarithm, which is of no use near 1.

    u = m 2**e with m = 1 - v and v <= 1/2, and -log(1 - v) = 2 artanh(v / (2 - v)), by its series. Above 1/2, where
    u itself would lose its last bits, v = 1 - u is made of the word.
    """
    number = word.to(tl.float32) + 0.5
    bits = number.to(tl.int32, bitcast=True)
    power = (32 + 126 - (bits >> 23)).to(tl.float32)
    part = ((bits & 0x7FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    above = word >= 2147483648
    v = tl.where(above, ((word ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1.0 - part)
    s = v / (2.0 - v)
    q = s * s
    series = q * (1 / 13 + q * (1 / 15 + q * (1 / 17)))
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + series)))))
    return tl.where(above, 0.0, power * 0.6931471805599453) + 2.0 * s * series


@triton.jit
def normals(seeds, starts, made, count, RADIUS: tl.constexpr, ANGLE: tl.constexpr, BLOCK: tl.constexpr):
    """made (B, count): standard normal numbers at the places from starts (B,) on, of seeds (B,)."""
    row = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(starts + row) + number
    seed = tl.load(seeds + row)
    radius = tl.sqrt(-2.0 * tl.log(uniform(seed, place, RADIUS)))
    angle = 6.283185307179586 * uniform(seed, place, ANGLE)
    tl.store(made + row * count + number, (radius * tl.cos(angle)).to(tl.float32), mask=number < count)
