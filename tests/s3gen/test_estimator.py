from typing import Any

import pytest
import torch
from torch import Tensor

from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.spec import S3GenSpec
from tests.s3gen.conftest import MEL_BINS, TOLERANCE


@pytest.fixture(scope="module")
def estimator(spec: S3GenSpec, reference_estimator: Any) -> Estimator:
    estimator = Estimator(spec)
    estimator.load_state_dict(reference_estimator.state_dict(), strict=True)
    return estimator.eval().requires_grad_(False)


def inputs(batch: int, frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    x, mu, cond = torch.randn(3, batch, MEL_BINS, frames, generator=generator)
    speaker = torch.randn(batch, MEL_BINS, generator=generator)
    t, until = torch.rand(2, batch, generator=generator)
    return {"x": x, "mu": mu, "cond": cond, "t": t, "until": until, "speaker": speaker}


def expect(reference: Any, mask: Tensor, given: dict[str, Tensor]) -> Tensor:
    return reference(given["x"], mask, given["mu"], given["t"], given["speaker"], given["cond"], given["until"])


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 2), (4, 30)])
def test_equals_the_reference(estimator: Estimator, reference_estimator: Any, batch: int, frames: int) -> None:
    given = inputs(batch, frames)
    expected = expect(reference_estimator, torch.ones(batch, 1, frames), given)
    assert 0.1 < expected.std() < 10
    torch.testing.assert_close(estimator(mask=None, **given), expected, atol=TOLERANCE, rtol=0)


def test_equals_the_reference_where_rows_are_padded(estimator: Estimator, reference_estimator: Any) -> None:
    given = inputs(3, 24)
    mask = (torch.arange(24) < torch.tensor([24, 11, 1])[:, None])[:, None].float()
    expected = expect(reference_estimator, mask, given)
    torch.testing.assert_close(estimator(mask=mask, **given), expected, atol=TOLERANCE, rtol=0)


def test_a_row_in_a_ragged_batch_equals_the_row_alone(estimator: Estimator) -> None:
    given = inputs(2, 16)
    together = estimator(mask=(torch.arange(16) < torch.tensor([[16], [9]]))[:, None], **given)
    cut = {name: value[1:, ..., :9] if value.dim() == 3 else value[1:] for name, value in given.items()}
    torch.testing.assert_close(together[1:, :, :9], estimator(mask=None, **cut), atol=TOLERANCE, rtol=0)
    assert not together[1, :, 9:].any()


def test_one_embedded_time_serves_all_rows(estimator: Estimator) -> None:
    given = inputs(3, 8)
    given |= {"t": torch.full((3,), 0.3), "until": torch.full((3,), 0.8)}
    each = estimator(mask=None, **given)
    time = estimator.embed_time(torch.tensor([0.3]), torch.tensor([0.8]))
    one = estimator.velocity(given["x"], None, given["mu"], time, given["speaker"], given["cond"])
    torch.testing.assert_close(one, each, atol=TOLERANCE, rtol=0)


def test_only_a_mean_flow_heeds_the_end_of_a_step(estimator: Estimator, spec: S3GenSpec) -> None:
    t = torch.tensor([0.3])
    early, late = (estimator.embed_time(t, torch.tensor([until])) for until in (0.4, 0.9))
    assert torch.equal(early, late) != spec.meanflow
