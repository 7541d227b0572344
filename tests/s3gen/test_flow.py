from typing import Any

import pytest
import torch
from torch import Tensor

from chatterbox_engine.s3gen.flow import Flow, flow_noise
from chatterbox_engine.spec import S3GenSpec
from tests.s3gen.conftest import MEL_BINS, SMALL, TOLERANCE

PROMPT = 6
"""Tokens of the prompt; its mel has twice as many frames."""
LOOKAHEAD = SMALL.encoder.lookahead


@pytest.fixture(scope="module")
def flow(spec: S3GenSpec, reference_flow: Any) -> Flow:
    flow = Flow(spec)
    flow.load_state_dict(reference_flow.state_dict(), strict=True)
    return flow.eval().requires_grad_(False)


def inputs(batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return (
        torch.randint(0, SMALL.token_vocab, (batch, tokens), generator=generator),
        torch.randn(batch, 2 * PROMPT, MEL_BINS, generator=generator),
        torch.randn(batch, SMALL.speaker_width, generator=generator),
        flow_noise(torch.arange(batch), 2 * PROMPT, 0, 2 * (tokens - PROMPT), MEL_BINS),
    )


def reference_mel(reference: Any, monkeypatch: pytest.MonkeyPatch, given: tuple[Tensor, ...], *, steps: int) -> Tensor:
    tokens, prompt, speaker, noise = given
    batch, length = tokens.shape
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.clone())
    mel, _ = reference.inference(
        token=tokens[:, PROMPT:],
        token_len=torch.full((batch,), length - PROMPT),
        prompt_token=tokens[:, :PROMPT],
        prompt_token_len=torch.full((batch,), PROMPT),
        prompt_feat=prompt,
        prompt_feat_len=None,
        embedding=speaker,
        finalize=True,
        n_timesteps=steps,
        meanflow=reference.decoder.estimator.meanflow,
    )
    return mel


@pytest.mark.parametrize(("batch", "steps"), [(1, None), (2, 3), (1, 1)])
def test_equals_the_reference(
    flow: Flow, reference_flow: Any, monkeypatch: pytest.MonkeyPatch, batch: int, steps: int | None
) -> None:
    given = inputs(batch, 15)
    expected = reference_mel(reference_flow, monkeypatch, given, steps=steps or flow.spec.cfm_steps)
    assert 0.1 < expected.std() < 10
    mel = flow(*given, steps=steps, final=True)
    assert mel.shape == (batch, MEL_BINS, 18)
    torch.testing.assert_close(mel, expected, atol=TOLERANCE, rtol=0)


def test_lookahead_tokens_are_heard_but_not_spoken(
    flow: Flow, reference_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference fails with finalize=False, so its parts are joined here: encode all, drop, then decode."""
    tokens, prompt, speaker, noise = given = inputs(1, 14)
    frames = 2 * (14 - LOOKAHEAD)
    hidden, _ = reference_flow.encoder(reference_flow.input_embedding(tokens), torch.tensor([14]))
    mu = reference_flow.encoder_proj(hidden[:, :frames]).transpose(1, 2)
    cond = torch.zeros_like(mu)
    cond[:, :, : 2 * PROMPT] = prompt.transpose(1, 2)
    voice = reference_flow.spk_embed_affine_layer(torch.nn.functional.normalize(speaker, dim=1))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise[:, :, :frames].clone())
    expected, _ = reference_flow.decoder(mu, torch.ones(1, 1, frames), n_timesteps=2, spks=voice, cond=cond,
                                         meanflow=flow.spec.meanflow)  # fmt: skip
    mel = flow(*given, steps=2, final=False)
    torch.testing.assert_close(mel, expected[:, :, 2 * PROMPT :], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("final", [True, False])
def test_a_row_in_a_ragged_batch_equals_the_row_alone(flow: Flow, final: bool) -> None:
    lengths = [18, 10, 14]
    tokens, prompt, speaker, noise = inputs(3, 18)
    together = flow(tokens, prompt, speaker, noise, lengths=torch.tensor(lengths), steps=2, final=final)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone = flow(tokens[one, :length], prompt[one], speaker[one], noise[one], steps=2, final=final)
        assert alone.shape[2] == 2 * (length - (0 if final else LOOKAHEAD) - PROMPT)
        torch.testing.assert_close(together[one, :, : alone.shape[2]], alone, atol=TOLERANCE, rtol=0)


def test_too_few_tokens_or_too_little_noise_are_refused(flow: Flow) -> None:
    tokens, prompt, speaker, noise = inputs(1, PROMPT + LOOKAHEAD)
    with pytest.raises(ValueError, match="beyond the prompt"):
        flow(tokens, prompt, speaker, noise, final=False)
    with pytest.raises(ValueError, match="noise"):
        flow(tokens, prompt, speaker, noise[:, :, :-1], final=True)


def test_noise_of_a_frame_does_not_depend_on_the_window() -> None:
    seeds = torch.tensor([5, 6])
    whole = flow_noise(seeds, 10, 0, 40, MEL_BINS)
    assert whole.shape == (2, MEL_BINS, 50)
    assert torch.equal(flow_noise(seeds, 10, 7, 20, MEL_BINS)[:, :, 10:], whole[:, :, 17:37])
    assert torch.equal(flow_noise(seeds, 4, 0, 40, MEL_BINS)[:, :, 4:], whole[:, :, 10:])
    assert torch.equal(flow_noise(seeds[1:], 10, 0, 40, MEL_BINS)[0], whole[1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[:, :, :10], whole[:, :, 10:20])
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.05
