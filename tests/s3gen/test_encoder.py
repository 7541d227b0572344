from typing import Any

import pytest
import torch

from chatterbox_engine.s3gen.encoder import Encoder, relative_positions
from tests.s3gen.conftest import SMALL, TOLERANCE

WIDTH = SMALL.encoder.width


@pytest.fixture(scope="module")
def encoder(reference_encoder: Any) -> Encoder:
    encoder = Encoder(SMALL)
    encoder.load_state_dict(reference_encoder.state_dict(), strict=True)
    return encoder.eval().requires_grad_(False)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 2), (1, 7), (3, 40), (1, 150), (1, 5)])
def test_equals_the_reference(encoder: Encoder, reference_encoder: Any, batch: int, tokens: int) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(batch, tokens, WIDTH)
    expected, _ = reference_encoder(x, torch.full((batch,), tokens))
    assert expected.std() > 0.3
    assert encoder(x).shape == (batch, 2 * tokens, WIDTH)
    torch.testing.assert_close(encoder(x), expected, atol=TOLERANCE, rtol=0)


def test_lengths_that_are_all_full_change_nothing(encoder: Encoder) -> None:
    x = torch.randn(2, 9, WIDTH)
    torch.testing.assert_close(encoder(x, torch.tensor([9, 9])), encoder(x), atol=TOLERANCE, rtol=0)


def test_a_row_in_a_ragged_batch_equals_the_row_alone(encoder: Encoder) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([1, 4, 13, 20])
    x = torch.randn(4, 20, WIDTH)
    together = encoder(x, lengths)
    assert together.isfinite().all()
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(x[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1, : 2 * length], alone, atol=TOLERANCE, rtol=0)


def test_frames_depend_on_tokens_to_their_right(encoder: Encoder) -> None:
    """The masks above do not hide a causal encoder: attention is full."""
    x = torch.randn(1, 20, WIDTH)
    changed = x.clone()
    changed[:, -1] += 1.0
    assert (encoder(changed) - encoder(x))[:, 0].abs().max() > TOLERANCE


def test_positions_of_a_longer_table_are_its_middle() -> None:
    short, long = relative_positions(5, 16), relative_positions(12, 16)
    torch.testing.assert_close(long[7:-7], short)
    torch.testing.assert_close(short[4], torch.tensor([0.0, 1.0] * 8))
