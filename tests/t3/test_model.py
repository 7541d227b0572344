"""T3's tables and prompt against chatterbox-tts at full width."""

from typing import Any

import pytest
import torch

from chatterbox_engine.spec import RopeSpec, T3Spec
from chatterbox_engine.t3.layers import rope_tables
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import T3Voice
from chatterbox_engine.weights import StateDictWeights

TEXT = [255, 20, 31, 42, 17, 103, 9, 0]


@pytest.fixture(scope="module")
def model(reference_t3: Any) -> T3Model:
    weights = StateDictWeights(reference_t3.state_dict(), "the reference")
    return T3Model.from_weights(T3Spec(layers=2), weights, 100, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def voice(reference_voice: Any) -> T3Voice:
    return T3Voice("v", reference_voice.speaker, reference_voice.prompt)


def condition(voice: T3Voice, exaggeration: float) -> Any:
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    return T3Cond(voice.speaker, None, voice.prompt.clone(), None, exaggeration * torch.ones(1, 1, 1))


def test_rope_tables_are_those_of_transformers(reference_t3: Any) -> None:
    rotary = reference_t3.tfmr.rotary_emb
    cos, sin = rotary(torch.zeros(1), torch.arange(4096)[None])
    own_cos, own_sin = rope_tables(RopeSpec(), 64, 4096)
    assert torch.equal(own_cos, cos[0])
    assert torch.equal(own_sin, sin[0])


@pytest.mark.parametrize("exaggeration", [0.0, 0.5, 1.7])
@torch.inference_mode()
def test_conditioning_equals_the_reference(
    model: T3Model, reference_t3: Any, voice: T3Voice, exaggeration: float
) -> None:
    expected = reference_t3.prepare_conditioning(condition(voice, exaggeration))[0]
    prefix = model.voice_prefix(voice.speaker, voice.prompt)
    own = torch.cat((prefix, model.cond_enc.emotion(exaggeration)))
    assert own.shape == (34, 1024)
    assert (own - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("prompt_tokens", [1, 40, 150])
@torch.inference_mode()
def test_both_rows_of_the_prompt_equal_the_reference(
    model: T3Model, reference_t3: Any, voice: T3Voice, prompt_tokens: int
) -> None:
    """With the second start token, which the reference's `inference` appends."""
    voice = T3Voice("v", voice.speaker, voice.prompt[:, :prompt_tokens])
    start = torch.full((2, 1), reference_t3.hp.start_speech_token)
    expected, _ = reference_t3.prepare_input_embeds(
        t3_cond=condition(voice, 0.7), text_tokens=torch.tensor([TEXT, TEXT]), speech_tokens=start, cfg_weight=0.5
    )
    again = reference_t3.speech_emb(start) + reference_t3.speech_pos_emb.get_fixed_embedding(0)
    expected = torch.cat((expected, again), dim=1)
    prefix = model.voice_prefix(voice.speaker, voice.prompt)
    rows = [model.prompt(prefix, 0.7, TEXT, conditioned) for conditioned in (True, False)]
    assert len(prefix) == model.voice_positions(prompt_tokens)
    assert len(rows[0]) == model.prompt_length(len(prefix), len(TEXT))
    for own, theirs in zip(rows, expected, strict=True):
        assert own.shape == theirs.shape
        assert (own - theirs).abs().max() <= 1e-6
    assert (rows[0] - rows[1]).abs().max() > 0.01


@torch.inference_mode()
def test_speech_tokens_are_embedded_as_the_reference_does(model: T3Model, reference_t3: Any) -> None:
    tokens, places = torch.tensor([0, 6560, 6561, 8193]), torch.tensor([0, 1, 700, 4099])
    expected = reference_t3.speech_emb(tokens) + torch.cat(
        [reference_t3.speech_pos_emb.get_fixed_embedding(int(place)) for place in places], dim=1
    )
    assert torch.equal(model.embed_speech(tokens, places), expected[0])
