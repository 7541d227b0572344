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
def uniform(seed, place, KEY: tl.constexpr):
    """Uniform float64 numbers in (0, 1) of a seed and places, int64. KEY: of the domain and the lane."""
    key = mix((seed + KEY).to(tl.uint32))
    key = mix(key ^ (seed >> 32).to(tl.uint32))
    word = mix(mix(place.to(tl.uint32) ^ mix(key ^ (place >> 32).to(tl.uint32))) + key)
    return (word.to(tl.float64) + 0.5) / 4294967296.0


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
