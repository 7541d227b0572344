"""Pieces of one utterance draw from seeds of their own, which follow from the utterance's."""

from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.seeds import derive_seed


@given(seed=st.integers(0, 2**63 - 1))
def test_pieces_have_seeds_of_their_own(seed: int) -> None:
    derived = [derive_seed(seed, index) for index in range(12)]
    assert derived[0] == seed
    assert len(set(derived)) == len(derived)
    assert all(0 <= each < 2**63 for each in derived)
    assert derived == [derive_seed(seed, index) for index in range(12)]
