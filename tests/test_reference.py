"""A ChatterboxTTS in memory, wrapped: in the profile `reference` its tokens are the reference's, and it stays as it is.

The model is chatterbox-tts's own, at full width and small depth, with random weights.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS

TEXTS = ("hello there — this is “a test”: one, two... three", "Another sentence; it has an end!")
TOKENS = 32


def state_of(model: Any) -> dict[str, Tensor]:
    """Every tensor of a ChatterboxTTS, and of its voice, copied."""
    modules = {"t3": model.t3, "s3gen": model.s3gen, "ve": model.ve}
    state = {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }
    voice = {**vars(model.conds.t3), **model.conds.gen}
    state |= {f"conds.{name}": value for name, value in voice.items() if isinstance(value, Tensor)}
    # T3.inference makes a second name for the same modules.
    return {name: tensor.clone() for name, tensor in state.items() if "patched_model" not in name}


@pytest.fixture(scope="module")
def before(reference_tts: Any) -> dict[str, Tensor]:
    return state_of(reference_tts)


@pytest.fixture(scope="module")
def tts(reference_tts: Any, before: dict[str, Tensor]) -> Iterator[OptimizedChatterboxTTS]:
    config = EngineConfig.profile("reference", t3={"max_streams": 2, "max_positions": 256}, s3gen={"cfm_steps": 1})
    tts = OptimizedChatterboxTTS.from_reference(reference_tts, config)
    yield tts
    tts.close()


def reference_tokens(model: Any, text: str, seed: int, exaggeration: float, **settings: Any) -> Tensor:
    """What ChatterboxTTS.generate does up to its speech tokens, with fewer of them."""
    from chatterbox.models.t3.modules.cond_enc import T3Cond
    from chatterbox.tts import punc_norm

    conds = T3Cond(
        speaker_emb=model.conds.t3.speaker_emb,
        cond_prompt_speech_tokens=model.conds.t3.cond_prompt_speech_tokens,
        emotion_adv=exaggeration * torch.ones(1, 1, 1),
    )
    tokens = model.tokenizer.text_to_tokens(punc_norm(text))
    tokens = torch.cat([tokens, tokens], dim=0)
    tokens = F.pad(tokens, (1, 0), value=model.t3.hp.start_text_token)
    tokens = F.pad(tokens, (0, 1), value=model.t3.hp.stop_text_token)
    torch.manual_seed(seed)
    spoken = model.t3.inference(t3_cond=conds, text_tokens=tokens, max_new_tokens=TOKENS, **settings)[0]
    return spoken[spoken < 6561]


@pytest.mark.parametrize(
    ("seed", "exaggeration", "settings"),
    [
        (0, 0.5, {"cfg_weight": 0.5}),
        (1, 0.5, {"cfg_weight": 0.3}),
        (2**40 + 7, 1.3, {"cfg_weight": 1.0, "temperature": 1.0}),
        (3, 0.25, {"cfg_weight": 0.5, "top_p": 0.7, "min_p": 0.0, "repetition_penalty": 2.0}),
    ],
)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_the_references(
    tts: OptimizedChatterboxTTS, reference_tts: Any, text: str, seed: int, exaggeration: float, settings: Any
) -> None:
    given = {"temperature": 0.8, "min_p": 0.05, "top_p": 1.0, "repetition_penalty": 1.2, **settings}
    expected = reference_tokens(reference_tts, text, seed, exaggeration, **given)
    own = tts.speech_tokens(text, seed=seed, exaggeration=exaggeration, max_new_tokens=TOKENS, **settings)
    assert len(own) > 10
    assert torch.equal(own, expected)


def test_it_speaks_and_takes_voices_and_the_model_stays_as_it_is(
    tts: OptimizedChatterboxTTS, reference_tts: Any, before: dict[str, Tensor], clip: Path
) -> None:
    conds = reference_tts.conds
    wav = tts.generate(TEXTS[0], seed=1, max_new_tokens=15)
    assert wav.std() > 0
    assert tts.conds is not None
    assert torch.equal(tts.conds.t3.speaker_emb, conds.t3.speaker_emb)

    tts.prepare_conditionals(clip)
    own = tts.conds
    try:
        reference_tts.prepare_conditionals(clip)
        theirs = reference_tts.conds
    finally:
        reference_tts.conds = conds
    assert torch.equal(own.t3.speaker_emb, theirs.t3.speaker_emb)
    assert torch.equal(own.t3.cond_prompt_speech_tokens, theirs.t3.cond_prompt_speech_tokens)
    assert torch.equal(own.gen["embedding"], theirs.gen["embedding"])
    tts.conds = conds

    after = state_of(reference_tts)
    assert set(after) ^ set(before) == set()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert reference_tts.t3.speech_head.weight.requires_grad
