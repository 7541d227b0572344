"""What training writes is chatterbox-tts's own model at a smaller size, and the engine speaks with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.checkpoint import T3_FILE, Checkpoint, find
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.text.normalise import normalise
from chatterbox_engine.weights import SCALE, SafetensorsWeights
from training import dimensions, flow, speech_tokenizer, t3, vocoder
from training.corpus import MEL_SPREAD, Corpus
from training.voice import built_in

TEXT = "The kitchen is warm in the morning."
MOST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def tts(made: Path) -> Iterator[OptimizedChatterboxTTS]:
    config = EngineConfig.profile("reference", watermark=False, t3={"max_streams": 2}, s3gen={"cfm_steps": 1})
    tts = OptimizedChatterboxTTS.from_local(made, "cpu", config)
    yield tts
    tts.close()


def test_it_is_small_and_a_model_like_any_other(made: Path, tts: OptimizedChatterboxTTS) -> None:
    found = find(str(made), "cpu")
    assert found.spec.random_weights is None
    assert found.tokens_wanted(TEXT) is None
    assert sum(file.stat().st_size for file in made.iterdir()) <= MOST_BYTES
    wav = tts.generate(TEXT, max_new_tokens=20)
    assert wav.isfinite().all()
    assert 0 < wav.shape[1] <= (20 + len(found.spec.s3gen.opening_tokens)) * 960


def test_stages_begin_from_a_checkpoint_where_it_stood(made: Path, corpus: Corpus) -> None:
    """Tables that are sums are found again in their rows, but for what 8 bits take."""
    codes, _ = speech_tokenizer.tokens(corpus, made.parent)
    spec = dimensions.spec()
    talker, teller = t3.Trainee(built_in(corpus, codes), start=made), flow.Trainee(start=made)
    hift = vocoder.vocoder(start=made)
    for name, state, file, prefix in (
        ("t3", talker.reference_state(), spec.files.t3, ""),
        ("flow", teller.reference_state(), spec.files.s3gen, "flow."),
        ("hift", hift.state_dict(), spec.files.s3gen, "mel2wav."),
    ):
        weights = SafetensorsWeights(made / file)
        for tensor_name, tensor in state.items():
            stored = weights.take(prefix + tensor_name, tuple(tensor.shape)).float()
            if name == "hift" and tensor_name in vocoder.READ_MELS:
                stored = stored * MEL_SPREAD
            most = stored.abs().max().item() / 60  # two roundings of 8 bits
            torch.testing.assert_close(tensor, stored, atol=max(most, 1e-6), rtol=0, msg=f"{name} {tensor_name}")


def test_it_takes_no_other_voice(tts: OptimizedChatterboxTTS, clip: Path) -> None:
    with pytest.raises(InvalidRequest, match="demo has one voice") as caught:
        tts.prepare_conditionals(clip)
    assert caught.value.param == "file"


def test_exaggeration_and_guidance_reach_the_tokens(tts: OptimizedChatterboxTTS) -> None:
    def tokens(**settings: float) -> torch.Tensor:
        return tts.speech_tokens(TEXT, seed=1, max_new_tokens=60, **settings)

    own = tokens()
    assert torch.equal(own, tokens())
    for changed in ({"exaggeration": 1.0}, {"exaggeration": 0.0}, {"cfg_weight": 0.0}):
        assert not torch.equal(own, tokens(**changed))


def test_numbers_are_read_as_words(tts: OptimizedChatterboxTTS) -> None:
    texts = ("I have 12 cats.", "I have twelve cats.", "I have two cats.")
    digits, words, others = (tts.speech_tokens(text, seed=1, max_new_tokens=60) for text in texts)
    assert torch.equal(digits, words)
    assert not torch.equal(digits, others)


def test_eight_bits_are_read_as_numbers_times_their_rows_scale(made: Path) -> None:
    file = made / find(str(made), "cpu").spec.files.t3
    raw = load_file(file)
    stored = [name for name, tensor in raw.items() if tensor.dtype is torch.int8]
    assert "tfmr.layers.0.self_attn.q_proj.weight" in stored
    weights = SafetensorsWeights(file)
    for name in stored:
        assert torch.equal(weights.take(name, tuple(raw[name].shape)), raw[name].float() * raw[name + SCALE])


def test_its_tokens_are_those_of_chatterbox_ttss_own_t3(made: Path, tts: OptimizedChatterboxTTS) -> None:
    """The same weights in chatterbox-tts's class, with the product's default sampling."""
    own = find(str(made), "cpu")
    reference = reference_t3(own)
    conds: Any = tts.conds
    ids = torch.tensor(own.tokenizer().encode(normalise(TEXT, own.spec.family)))[None]
    sampling = own.spec.sampling
    torch.manual_seed(5)
    spoken = reference.inference(
        t3_cond=conds.t3, text_tokens=ids.repeat(2, 1), max_new_tokens=60, cfg_weight=sampling.cfg_weight,
        temperature=sampling.temperature, min_p=sampling.min_p, top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
    )[0]  # fmt: skip
    assert torch.equal(spoken[spoken < 6561], tts.speech_tokens(TEXT, seed=5, max_new_tokens=60))


def reference_t3(own: Checkpoint) -> Any:
    """chatterbox-tts's T3 at the bundled model's size, with its weights."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.perceiver import Perceiver
    from chatterbox.models.t3.modules.t3_config import T3Config

    spec = own.spec.t3
    LLAMA_CONFIGS["demo"] = {
        **LLAMA_CONFIGS["Llama_520M"], "num_hidden_layers": spec.layers, "hidden_size": spec.width,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.heads, "head_dim": spec.head_width,
        "intermediate_size": spec.mlp_width,
    }  # fmt: skip
    settings = T3Config(spec.text_vocab)
    settings.llama_config_name = "demo"
    settings.max_text_tokens, settings.max_speech_tokens = spec.max_text_tokens, spec.max_speech_tokens
    settings.speech_cond_prompt_len = spec.prompt_tokens
    t3 = T3(settings)
    # chatterbox-tts gives its perceiver the real model's width, whatever the settings say
    t3.cond_enc.perceiver = Perceiver(spec.perceiver_queries, spec.width, spec.width, spec.perceiver_heads)
    weights = own.weights(T3_FILE)
    unused = ("tfmr.embed_tokens.weight", "text_head.weight")
    shapes = {name: tuple(tensor.shape) for name, tensor in t3.state_dict().items() if name not in unused}
    missing = t3.load_state_dict(
        {name: weights.take(name, shape).float() for name, shape in shapes.items()}, strict=False
    )
    assert set(missing.missing_keys) <= set(unused)
    return t3.eval()
