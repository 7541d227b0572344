"""The KV cache: what is written is read, moves carry it along, and scratch is never seen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.kv_cache import KVCache

SPEC = T3Spec(layers=2, heads=3, head_width=4)
ROWS, POSITIONS = 5, 12


def cache(dtype: torch.dtype = torch.float32, quantised: bool = False) -> KVCache:
    return KVCache(SPEC, ROWS, POSITIONS, dtype, torch.device("cpu"), quantised)


writes = st.lists(
    st.tuples(
        st.integers(0, SPEC.layers - 1),
        st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True),
        st.integers(0, POSITIONS - 1),
        st.integers(1, 4),
    ),
    max_size=8,
)


@given(done=writes, source=st.integers(0, ROWS - 1), target=st.integers(0, ROWS - 1), length=st.integers(0, POSITIONS))
@settings(max_examples=100)
def test_reads_give_what_was_written_last(
    done: list[tuple[int, list[int], int, int]], source: int, target: int, length: int
) -> None:
    """Against a table held beside it; padded places go to scratch, as a ragged prefill sends them."""
    own = cache()
    table = torch.zeros(2, SPEC.layers, ROWS, SPEC.heads, POSITIONS, SPEC.head_width)
    generator = torch.Generator().manual_seed(0)
    for layer, rows, start, count in done:
        kv = torch.randn(2, len(rows), SPEC.heads, count, SPEC.head_width, generator=generator)
        places = torch.arange(start, start + count).expand(len(rows), -1)
        places = torch.where(places < POSITIONS, places, own.scratch)
        own.write(layer, torch.tensor(rows), places, kv.permute(1, 3, 0, 2, 4))
        end = min(start + count, POSITIONS)
        for i, row in enumerate(rows):
            table[:, layer, row, :, start:end] = kv[:, i, :, : end - start]
    own.move(source, target, length)
    table[:, :, target, :, :length] = table[:, :, source, :, :length].clone()
    for layer in range(SPEC.layers):
        for rows_read in (slice(0, ROWS), slice(1, 3), torch.tensor([4, 0, 2])):
            keys, values = own.read(layer, rows_read, POSITIONS)
            assert torch.equal(keys, table[0, layer, rows_read])
            assert torch.equal(values, table[1, layer, rows_read])
        keys, _ = own.read(layer, slice(0, ROWS), 5)
        assert torch.equal(keys, table[0, layer, :, :, :5])


def test_a_block_of_rows_is_read_without_a_copy() -> None:
    own = cache()
    keys, values = own.read(1, slice(1, 3), 7)
    assert keys.data_ptr() == own.store[1, 0, 1].data_ptr()
    assert values.data_ptr() == own.store[1, 1, 1].data_ptr()


@pytest.mark.parametrize("quantised", [False, True])
def test_bytes_of_a_position(quantised: bool) -> None:
    own = cache(torch.bfloat16, quantised)
    assert own.position_bytes * ROWS * (POSITIONS + 1) == own.store.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(magnitude=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_8_bits_hold_what_is_written_to_half_a_step(dtype: torch.dtype, magnitude: float, seed: int) -> None:
    """Of each head's own largest number; rows moved, saved and restored keep their bits."""
    own = cache(dtype, quantised=True)
    kv = (magnitude * torch.randn(ROWS, POSITIONS, 2, 3, 4, generator=torch.Generator().manual_seed(seed))).to(dtype)
    kv[0, 0] = 0
    own.write(1, torch.arange(ROWS), torch.arange(POSITIONS).expand(ROWS, -1), kv)
    kv = kv.float()
    got = torch.stack(own.read(1, slice(None), POSITIONS)).permute(1, 3, 0, 2, 4).float()
    step = kv.abs().amax(-1, keepdim=True) / 127
    rounding = 2**-7 * kv.abs() if dtype == torch.bfloat16 else 1e-6 * kv.abs()
    assert ((got - kv).abs() <= 0.51 * step + rounding).all()
    own.move(2, 4, POSITIONS)
    own.restore(3, own.save(2, POSITIONS))
    again = torch.stack(own.read(1, slice(None), POSITIONS))
    assert torch.equal(again[:, 4], again[:, 2])
    assert torch.equal(again[:, 3], again[:, 2])


@pytest.mark.parametrize("quantised", [False, True])
@given(length=st.integers(1, POSITIONS))
def test_what_is_saved_of_a_row_begins_others(quantised: bool, length: int) -> None:
    own = cache(quantised=quantised)
    own.store.copy_(100 * torch.randn(own.store.shape, generator=torch.Generator().manual_seed(length)))
    before, saved = own.store.clone(), own.save(1, length)
    for row in (0, 3):
        own.restore(row, saved)
        assert torch.equal(own.store[:, :, row, :, :length], before[:, :, 1, :, :length])
        assert torch.equal(own.store[:, :, row, :, length:], before[:, :, row, :, length:])
    assert torch.equal(own.store[:, :, [1, 2, 4]], before[:, :, [1, 2, 4]])
