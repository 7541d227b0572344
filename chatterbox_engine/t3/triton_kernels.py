"""T3's decode step on a GPU, written for Triton: what lies between two products, in one launch each.

A step of one stream is bound by its number of launches, not by what they compute. One program computes one row, or one
head of one row; sums are in fp32, and what is stored is rounded once. Importing this takes the compiler with it.
"""

import triton
import triton.language as tl

from chatterbox_engine.accel.triton_noise import exponential


@triton.jit
def add_norm(x, delta, weight, bias, out, eps, width, ADDS: tl.constexpr, CENTRED: tl.constexpr, BLOCK: tl.constexpr):
    """A row of x (R, width) += that of delta, if it ADDS; out gets its norm: CENTRED, GPT-2's, or else Llama's."""
    place = tl.arange(0, BLOCK)
    inside = place < width
    here = tl.program_id(0) * width + place
    kind = x.dtype.element_ty
    value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        value += tl.load(delta + here, mask=inside, other=0.0).to(tl.float32)
        tl.debug_barrier()  # a row narrower than the program is loaded by several of its threads, and stored by one
        tl.store(x + here, value.to(kind), mask=inside)
        value = value.to(kind).to(tl.float32)
    if CENTRED:
        value = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
    value = value / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    gain = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        value = value * gain + tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    else:
        value = value.to(kind).to(tl.float32) * gain
    tl.store(out + here, value.to(kind), mask=inside)


@triton.jit
def attend(
    qkv, cos, sin, positions, queries, cache, out, both, row_stride, head_stride, length, scale,
    TURNS: tl.constexpr, ASKED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention of qkv (R, 3, HEADS, WIDTH), turned if it TURNS, to the places of their rows up to their own, of those
    before it the first `length`, with a running maximum (2205.14135): out (R, HEADS, WIDTH). Keys and values go to
    their places in a layer's cache (2, rows, HEADS, positions, WIDTH), whose first row is row 0 here; the queries, if
    they are ASKED for, to queries (R, HEADS, WIDTH)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    number, block = tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    own = (row * 3 * HEADS + head) * WIDTH
    kind = out.dtype.element_ty
    query = tl.load(qkv + own + number).to(tl.float32)
    key = tl.load(qkv + own + HEADS * WIDTH + number).to(tl.float32)
    value = tl.load(qkv + own + 2 * HEADS * WIDTH + number)
    if TURNS:
        half: tl.constexpr = WIDTH // 2
        across = (number + half) % WIDTH
        cosine = tl.load(cos + position * WIDTH + number).to(tl.float32)
        sine = tl.load(sin + position * WIDTH + number).to(tl.float32)
        sine = tl.where(number < half, -sine, sine)
        query = query * cosine + tl.load(qkv + own + across).to(tl.float32) * sine
        key = key * cosine + tl.load(qkv + own + HEADS * WIDTH + across).to(tl.float32) * sine
    query = query.to(kind)
    key = key.to(kind)
    made = (row * HEADS + head) * WIDTH + number
    if ASKED:
        tl.store(queries + made, query)
    keys = cache + row * row_stride + head * head_stride
    tl.store(keys + position * WIDTH + number, key)
    tl.store(keys + both + position * WIDTH + number, value)
    # Its own place comes first, and from here: what was just stored is not read back.
    query = query.to(tl.float32) * scale
    most = tl.sum(query * key.to(tl.float32), axis=0)
    total = tl.full((), 1.0, tl.float32)
    sums = value.to(tl.float32)
    end = tl.minimum(position, length)
    for begin in range(0, length, BLOCK):  # beyond the end nothing is read
        places = begin + block
        inside = places < end
        there = keys + places[:, None] * WIDTH + number[None, :]
        earlier = tl.load(there, mask=inside[:, None], other=0.0).to(tl.float32)
        spoken = tl.load(there + both, mask=inside[:, None], other=0.0).to(tl.float32)
        score = tl.where(inside, tl.sum(earlier * query[None, :], axis=1), float("-inf"))
        new = tl.maximum(most, tl.max(score, axis=0))
        weight = tl.exp(score - new)
        kept = tl.exp(most - new)
        sums = sums * kept + tl.sum(weight[:, None] * spoken, axis=0)
        total = total * kept + tl.sum(weight, axis=0)
        most = new
    tl.store(out + made, (sums / total).to(kind))


@triton.jit
def gate(gate_up, out, width, BLOCK: tl.constexpr):
    """gate_up (R, 2 width) -> silu of its first half times its second (R, width)."""
    row = tl.program_id(0)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = number < width
    own = gate_up + row * 2 * width + number
    value = tl.load(own, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    value = (value * tl.sigmoid(value)).to(kind).to(tl.float32)
    value *= tl.load(own + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + number, value.to(kind), mask=inside)


@triton.jit
def draw(
    logits, slots, seen, penalties, temperatures, min_p, seeds, steps, drawn, vocabulary,
    KEY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`sampling.process` and `sampling.draw` of logits (S, vocabulary), where nothing is sorted, the penalty first.
    Of seen, ..., steps the rows of `slots` (S,) are meant. KEY: `noise.key_of`."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    token = tl.arange(0, BLOCK)
    inside = token < vocabulary
    logit = tl.load(logits + row * vocabulary + token, mask=inside, other=float("-inf"))
    known = tl.load(seen + slot * vocabulary + token, mask=inside, other=0) != 0
    penalty = tl.load(penalties + slot)
    logit = tl.where(known, tl.where(logit < 0, logit * penalty, logit / penalty), logit)
    logit = logit / tl.load(temperatures + slot)
    share = tl.where(inside, tl.exp(logit - tl.max(logit, axis=0)), 0.0)
    kept = share >= tl.load(min_p + slot)  # of the likeliest, whose share is 1
    seed = tl.load(seeds + slot)
    step = tl.load(steps + slot)
    place = step * vocabulary + token.to(tl.int64)
    race = tl.where(kept & inside, share / exponential(seed, place, KEY), -1.0)
    tl.store(drawn + row, tl.argmax(race, axis=0).to(tl.int64))
