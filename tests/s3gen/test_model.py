"""What S3Gen is made of by its switches."""

import functools

import pytest
import torch
from torch import Tensor

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.flow import flow_noise
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.weights import RandomWeights

SPEC = ModelSpec.load(SPECS / "tiny.json").s3gen.model_copy(update={"cfm_steps": 1})
PROMPT = 10


def model(**switches: object) -> S3GenModel:
    given = S3GenSwitches(precision="fp32", **switches)  # type: ignore[arg-type]
    return S3GenModel(SPEC, RandomWeights(0), torch.float32, torch.device("cpu"), given)


def mel(model: S3GenModel, batch: int, tokens: int, lengths: Tensor | None) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return model.flow(
        torch.randint(0, 6561, (batch, tokens), generator=generator),
        torch.randn(batch, 2 * PROMPT, 80, generator=generator) - 6,
        torch.randn(batch, 192, generator=generator),
        flow_noise(torch.arange(batch), 2 * PROMPT, 0, 2 * (tokens - PROMPT), 80),
        lengths=lengths,
        final=True,
    )


def test_compiled_blocks_are_the_eager_ones(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """At any number of rows and frames, padded ones among them; without a break in what is compiled."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    compiled, eager = model(compile="default"), model()
    with torch.inference_mode():
        for batch, tokens, ragged in ((1, 20, False), (2, 31, True), (1, 44, False)):
            lengths = torch.tensor([tokens, tokens - 3]) if ragged else None
            made = [mel(own, batch, tokens, lengths) for own in (compiled, eager)]
            own = 2 * (tokens - 3 - PROMPT)
            torch.testing.assert_close(made[0][:, :, :own], made[1][:, :, :own], atol=1e-5, rtol=0)
    assert not caplog.records


def test_chunked_attention_is_not_compiled(caplog: pytest.LogCaptureFixture) -> None:
    chunked = model(compile="default", flow_attention="chunked")
    assert "the flow runs eagerly" in caplog.text
    assert mel(chunked, 1, 20, None).isfinite().all()


@pytest.mark.parametrize("compile", ["off", "default"])
def test_it_says_what_it_runs_on(compile: str) -> None:
    assert model(compile=compile).kernels == "PyTorch's operators"
