"""The other families' models of chatterbox-tts in memory, wrapped: their own tokens, text and voice.

They are chatterbox-tts's own classes at small depth, with random weights. The multilingual reference cannot sample at
such a depth (its analyzer reads layer 13); tests/t3 compares the guard.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatterbox_engine import EngineConfig, OptimizedChatterboxMultilingualTTS, OptimizedChatterboxTurboTTS
from chatterbox_engine.checkpoint import find, from_reference
from tests.families import shallow_s3gen
from tests.text.test_tokenizer import CANGJIE, SAMPLES, save_gpt2

TOKENS = 32
CONFIG = EngineConfig.profile("reference", t3={"max_streams": 2, "max_positions": 512}, s3gen={"cfm_steps": 1})
TEXTS = ("hello there [laugh] — this is “a test”: one, two... three", "Another sentence; it has an end!")


def voice_of(name: str) -> Any:
    voice = find(f"dummy:{name}", "cpu").voice()
    assert voice is not None
    return voice.to_conditionals()


@pytest.fixture(scope="module")
def turbo_reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox.tts_turbo import ChatterboxTurboTTS
    from transformers import AutoTokenizer

    small = {"n_layer": 2, "n_embd": 128, "hidden_size": 128, "n_head": 2}
    LLAMA_CONFIGS["GPT2_two_layers"] = {**LLAMA_CONFIGS["GPT2_medium"], **small}
    settings = T3Config(text_tokens_dict_size=50276)
    settings.llama_config_name = "GPT2_two_layers"
    settings.speech_tokens_dict_size = 6563
    settings.input_pos_emb = None
    settings.speech_cond_prompt_len = 375
    settings.use_perceiver_resampler = False
    settings.emotion_adv = False
    torch.manual_seed(0)
    t3 = T3(settings).eval()
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, "plain")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    s3gen, ve = shallow_s3gen(meanflow=True), VoiceEncoder().eval()
    return ChatterboxTurboTTS(t3, s3gen, ve, tokenizer, "cpu", voice_of("chatterbox-turbo"))


@pytest.fixture(scope="module")
def turbo(turbo_reference: Any) -> Iterator[OptimizedChatterboxTurboTTS]:
    with contextlib.closing(OptimizedChatterboxTurboTTS.from_reference(turbo_reference, CONFIG)) as tts:
        yield tts


def turbo_tokens(model: Any, text: str, seed: int, **settings: Any) -> Tensor:
    """What ChatterboxTurboTTS.generate does up to its speech tokens, with fewer of them."""
    from chatterbox.tts_turbo import punc_norm

    ids = model.tokenizer(punc_norm(text), return_tensors="pt", padding=True, truncation=True).input_ids
    torch.manual_seed(seed)
    with torch.inference_mode():
        spoken = model.t3.inference_turbo(t3_cond=model.conds.t3, text_tokens=ids, max_gen_len=TOKENS - 1, **settings)
    return spoken[spoken < 6561]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("seed", "settings"),
    [(0, {}), (2**40 + 7, {"temperature": 1.0, "top_k": 50}), (3, {"top_p": 0.7, "repetition_penalty": 2.0})],
)
def test_turbo_s_tokens_equal_the_references(
    turbo: OptimizedChatterboxTurboTTS, turbo_reference: Any, text: str, seed: int, settings: dict[str, Any]
) -> None:
    expected = turbo_tokens(turbo_reference, text, seed, **settings)
    own = turbo.speech_tokens(text, seed=seed, max_new_tokens=TOKENS, **settings)
    assert len(own) > 10
    assert torch.equal(own, expected)


def test_turbo_s_flow_speaks_as_the_references_does(
    turbo: OptimizedChatterboxTurboTTS, turbo_reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mel of the same tokens and noise, the silence included."""
    from chatterbox_engine.s3gen.flow import flow_noise

    model, voice = turbo._s3gen.engine._model, turbo._need_voice().for_s3gen()
    spoken = torch.tensor([[*range(100, 140), 4299, 4299, 4299]])
    prompt = voice.feat.shape[1]
    noise = flow_noise(torch.tensor([5]), prompt, 0, 2 * spoken.shape[1], 80)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.clone())
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: noise[:, :, prompt:].clone())
    expected = turbo_reference.s3gen.flow_inference(
        spoken, ref_dict=dict(turbo_reference.conds.gen), n_cfm_timesteps=2, finalize=True
    )
    monkeypatch.undo()
    tokens = torch.cat((voice.prompt, spoken), dim=1)
    with torch.inference_mode():
        mel = model.flow(tokens, voice.feat, voice.speaker, noise, final=True)
    assert expected.std() > 0.1
    torch.testing.assert_close(mel, expected, atol=1e-4, rtol=0)


def test_turbo_is_read_and_left_as_it_is(turbo: OptimizedChatterboxTurboTTS, turbo_reference: Any) -> None:
    before = {name: tensor.clone() for name, tensor in turbo_reference.t3.state_dict().items()}
    spec = turbo.checkpoint.spec
    assert turbo.checkpoint.model == "ChatterboxTurboTTS in memory"
    assert (spec.t3.layers, spec.t3.width, spec.t3.heads, spec.t3.head_width, spec.t3.mlp_width) == (2, 128, 2, 64, 512)
    assert (spec.s3gen.meanflow, spec.s3gen.estimator.mid_stages) == (True, 3)
    assert turbo.generate(TEXTS[0], seed=1, max_new_tokens=12).std() > 0
    assert turbo.conds is not None
    assert torch.equal(turbo.conds.t3.cond_prompt_speech_tokens, turbo_reference.conds.t3.cond_prompt_speech_tokens)
    after = turbo_reference.t3.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_turbo_s_depth_says_which_of_the_two_it_is(turbo_reference: Any) -> None:
    config = turbo_reference.t3.tfmr.config
    assert from_reference(turbo_reference).spec.family == "chatterbox-nano"
    width = config.n_embd
    try:
        config.n_embd = 1024
        assert from_reference(turbo_reference).spec.family == "chatterbox-turbo"
    finally:
        config.n_embd = width


def test_multilingual_is_read_with_its_languages(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spacy_pkuseg
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config
    from chatterbox.models.tokenizers import MTLTokenizer, tokenizer
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS, punc_norm

    class Letters:
        def cut(self, text: str) -> list[str]:
            return list(text)

    table = tmp_path / "Cangjie5_TC.json"
    table.write_text(json.dumps(CANGJIE))
    monkeypatch.setattr(tokenizer, "hf_hub_download", lambda **_: str(table))
    monkeypatch.setattr(spacy_pkuseg, "pkuseg", Letters)
    LLAMA_CONFIGS["two_layers"] = {**LLAMA_CONFIGS["Llama_520M"], "num_hidden_layers": 2}
    settings = T3Config.multilingual()
    settings.llama_config_name = "two_layers"
    torch.manual_seed(0)
    texts = MTLTokenizer(str(shared_data / "grapheme_mtl_merged_expanded_v1.json"))
    voice = voice_of("chatterbox-multilingual")
    model = ChatterboxMultilingualTTS(
        T3(settings).eval(), shallow_s3gen(meanflow=False), VoiceEncoder().eval(), texts, "cpu", voice
    )
    checkpoint = from_reference(model)
    assert (checkpoint.spec.family, checkpoint.spec.t3.text_vocab) == ("chatterbox-multilingual", 2454)
    assert not checkpoint.spec.t3.alignment_guard  # it has no layer that the guard could read
    own = checkpoint.tokenizer()
    for language, text in SAMPLES.items():
        text = punc_norm(text)
        assert own.encode(text, language) == [255, *texts.encode(text, language_id=language), 0]
    with contextlib.closing(OptimizedChatterboxMultilingualTTS.from_reference(model, CONFIG)) as tts:
        assert tts.generate(SAMPLES["zh"], "zh", seed=1, max_new_tokens=12).std() > 0
