"""Attention of new places to keys and values in pages, written for Triton. Importing this takes the compiler with it.

A plan (streams, 3 + 2 P) int64 says of each stream how many places are new, the first of them counted from its first
page's, and how many pages it has; then the pages' addresses and what is in them: as bits which of its 32 places are
attended to and, above these, how many of earlier pages are. A page holds (steps, layers, sequences, HEADS, 2, PAGE,
WIDTH). A call's rows are those of all streams, once a sequence.
"""

import triton
import triton.language as tl

_NUMBERS = ["plan_width", "layers", "layer", "frames", "streams", "sequences"]
"""One kernel for all of them: Triton would compile another for those that 16 divides, and for 1, in the middle of a
call; and likewise for steps at addresses that 16 does not divide."""


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=["step"])
def place(
    keys, values, plan, plan_width, step, layers, layer, frames, streams, sequences,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Keys and values (R, frames, HEADS, WIDTH) of the new places go to their pages, one a program."""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    own = plan + row % streams * plan_width
    count, first = tl.load(own), tl.load(own + 1)
    page = first // PAGE + tl.program_id(0)
    at = tl.arange(0, PAGE)
    new = page * PAGE + at - first
    inside = ((new >= 0) & (new < count))[:, None]
    number = tl.arange(0, WIDTH)[None, :]
    part = ((tl.load(step) * layers + layer) * sequences + row // streams) * HEADS + head
    memory = tl.load(own + 3 + page, mask=page * PAGE < first + count, other=0).to(keys.dtype)
    there = tl.multiple_of(memory + part * (2 * PAGE * WIDTH), 16) + (at[:, None] * WIDTH + number)
    here = (row * frames * HEADS + head) * WIDTH + new[:, None] * (HEADS * WIDTH) + number
    tl.store(there, tl.load(keys + here, mask=inside), mask=inside)
    tl.store(there + PAGE * WIDTH, tl.load(values + here, mask=inside), mask=inside)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=["step"])
def attend(
    queries, out, added, plan, plan_width, step, layers, layer, frames, streams, sequences, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of queries (R, frames, HEADS, WIDTH) of the new places to all places in their streams' pages, with a
    running maximum (2205.14135): out, of the queries' shape, 0 at padding. If it ADDS, to the scores those by distance
    (R, HEADS, frames, P PAGE + frames - 1), from P PAGE - 1 places back on."""
    row, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    own = plan + row % streams * plan_width
    pages = (plan_width - 3) // 2
    used = tl.load(own + 2)
    new = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, WIDTH)[None, :]
    spoken = (row * frames * HEADS + head) * WIDTH
    here = new[:, None] * (HEADS * WIDTH) + number
    query = tl.load(queries + spoken + here, mask=(new < frames)[:, None], other=0.0)
    part = ((tl.load(step) * layers + layer) * sequences + row // streams) * HEADS + head
    first = tl.load(own + 1)
    farthest = pages * PAGE - 1 - (tl.load(own + 3 + pages + first // PAGE) >> 32) - first % PAGE
    beside = added + (((row * HEADS + head) * frames + new) * (pages * PAGE + frames - 1))[:, None]
    # Of a finite least score a page of nothing but holes weighs 1 until there is a place, and then nothing.
    most = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    sums = tl.zeros((BLOCK, WIDTH), tl.float32)
    at = tl.arange(0, PAGE)
    for page in range(used):
        bits = tl.load(own + 3 + pages + page)
        inside = (bits >> at) & 1 != 0
        memory = tl.load(own + 3 + page).to(queries.dtype)
        there = tl.multiple_of(memory + part * (2 * PAGE * WIDTH), 16) + (at[:, None] * WIDTH + number)
        key = tl.load(there, mask=inside[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if ADDS:
            near = (bits >> 32) + at[None, :] + (farthest - new)[:, None]
            score += tl.load(beside + near, mask=(new < frames)[:, None] & inside[None, :], other=0.0).to(tl.float32)
        score = tl.where(inside[None, :], score * scale, -1e30)
        higher = tl.maximum(most, tl.max(score, axis=1))
        weight = tl.exp(score - higher[:, None])
        kept = tl.exp(most - higher)
        value = tl.load(there + PAGE * WIDTH, mask=inside[:, None], other=0.0)
        sums = sums * kept[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
        total = total * kept + tl.sum(weight, axis=1)
        most = higher
    own_place = new < tl.load(own)
    made = tl.where(own_place[:, None], sums / tl.where(own_place, total, 1.0)[:, None], 0.0)
    tl.store(out + spoken + here, made.to(out.dtype.element_ty), mask=(new < frames)[:, None])
