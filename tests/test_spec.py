"""ModelSpec: its defaults are the reference's own dimensions, and every tensor asked for is one that it has."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatterbox_engine.checkpoint import FAMILY
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.spec import SPECS, ModelSpec, RopeSpec, T3Spec
from chatterbox_engine.t3.model import T3Model, _GPT2Names, _LlamaNames
from chatterbox_engine.types import SamplingParams
from chatterbox_engine.weights import StateDictWeights
from training import dimensions


def test_t3_has_the_references_dimensions() -> None:
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    spec, theirs, settings = T3Spec(), LLAMA_CONFIGS["Llama_520M"], T3Config.english_only()
    assert spec.layers == theirs["num_hidden_layers"]
    assert spec.width == theirs["hidden_size"]
    assert spec.heads == theirs["num_attention_heads"] == theirs["num_key_value_heads"]
    assert spec.head_width == theirs["head_dim"]
    assert spec.mlp_width == theirs["intermediate_size"]
    assert spec.norm_eps == theirs["rms_norm_eps"]
    scaling = theirs["rope_scaling"]
    assert spec.rope == RopeSpec(
        theta=theirs["rope_theta"],
        factor=scaling["factor"],
        low_freq_factor=scaling["low_freq_factor"],
        high_freq_factor=scaling["high_freq_factor"],
        original_length=scaling["original_max_position_embeddings"],
    )
    assert (spec.text_vocab, spec.start_text, spec.stop_text) == (
        settings.text_tokens_dict_size, settings.start_text_token, settings.stop_text_token,
    )  # fmt: skip
    assert (spec.speech_vocab, spec.start_speech, spec.stop_speech) == (
        settings.speech_tokens_dict_size, settings.start_speech_token, settings.stop_speech_token,
    )  # fmt: skip
    assert (spec.max_text_tokens, spec.max_speech_tokens) == (settings.max_text_tokens, settings.max_speech_tokens)
    assert (spec.speaker_width, spec.prompt_tokens) == (settings.speaker_embed_size, settings.speech_cond_prompt_len)


def reference_t3(spec: ModelSpec) -> Any:
    """chatterbox-tts's own, built as its `from_local` does for the family."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    settings = T3Config(text_tokens_dict_size=spec.t3.text_vocab)
    if spec.t3.backbone == "gpt2":
        # 0.1.7 has no nano; the public repository's differs in these three numbers.
        small = {"n_layer": 12, "n_embd": 768, "hidden_size": 768, "n_head": 12}
        LLAMA_CONFIGS["GPT2_small"] = {**LLAMA_CONFIGS["GPT2_medium"], **small}
        settings.llama_config_name = "GPT2_small" if spec.family == "chatterbox-nano" else "GPT2_medium"
        settings.speech_tokens_dict_size = 6563
        settings.input_pos_emb = None
        settings.speech_cond_prompt_len = 375
        settings.use_perceiver_resampler = False
        settings.emotion_adv = False
    return T3(settings)


@pytest.mark.parametrize("name", FAMILY)
def test_at_full_size_every_tensor_is_one_of_the_references(name: str) -> None:
    """On the meta device, where tensors have shapes and no content."""
    from chatterbox.models.s3gen import S3Gen

    spec = ModelSpec.load(SPECS / f"{name}.json")
    with torch.device("meta"):
        t3, s3gen = reference_t3(spec), S3Gen(meanflow=spec.s3gen.meanflow).state_dict()
        model, flow = T3Model(spec.t3), Flow(spec.s3gen)
    assert spec.t3.prompt_tokens == t3.hp.speech_cond_prompt_len
    assert (spec.t3.emotion, bool(spec.t3.perceiver_queries)) == (t3.hp.emotion_adv, t3.hp.use_perceiver_resampler)
    state = t3.state_dict()
    hift = HiFT(spec.s3gen.hift, spec.s3gen.mel_bins)
    theirs: Any = StateDictWeights(state, "T3")
    parts = [
        (model, (_GPT2Names if spec.t3.backbone == "gpt2" else _LlamaNames)(theirs), ""),
        (flow, StateDictWeights(s3gen, "S3Gen"), "flow."),
        (hift, StateDictWeights(s3gen, "S3Gen"), "mel2wav."),
    ]
    for module, weights, prefix in parts:
        for own, tensor in module.state_dict().items():
            weights.take(prefix + own, tuple(tensor.shape))
    taken = sum(parameter.numel() for parameter in model.parameters())
    unused = ("text_head", "tfmr.embed_tokens", "tfmr.wte")
    assert taken == sum(tensor.numel() for own, tensor in state.items() if not own.startswith(unused))
    in_flow = sum(tensor.numel() for own, tensor in s3gen.items() if own.startswith("flow."))
    assert sum(parameter.numel() for parameter in flow.parameters()) == in_flow


def test_no_more_tokens_are_asked_for_than_the_model_has_positions() -> None:
    """A token behind the end of its table would end the engine, and on a GPU the process's device."""
    spec = ModelSpec(name="short", t3=T3Spec(max_speech_tokens=764))
    assert spec.defaults["max_new_tokens"] == spec.sampling_for({}).max_new_tokens == 764
    with pytest.raises(InvalidRequest, match="at most 764 tokens") as refused:
        spec.sampling_for({"max_new_tokens": 765})
    assert refused.value.param == "max_new_tokens"
    assert ModelSpec(name="long").sampling_for({"max_new_tokens": 4096}).max_new_tokens == 4096
    learnt = ModelSpec(name="gpt2", t3=T3Spec(max_speech_tokens=10, learned_positions=False))
    assert learnt.sampling_for({}).max_new_tokens == 1000


@pytest.mark.parametrize("name", FAMILY)
def test_defaults_are_those_of_the_reference_s_generate(name: str) -> None:
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS
    from chatterbox.tts import ChatterboxTTS
    from chatterbox.tts_turbo import ChatterboxTurboTTS

    spec = ModelSpec.load(SPECS / f"{name}.json")
    classes: dict[str, Any] = {"chatterbox": ChatterboxTTS, "chatterbox-multilingual": ChatterboxMultilingualTTS}
    reference = classes.get(spec.family, ChatterboxTurboTTS)
    theirs = {
        parameter: value.default
        for parameter, value in inspect.signature(reference.generate).parameters.items()
        if parameter in SamplingParams.model_fields
    }
    if name == "chatterbox-multilingual-v3":
        theirs["repetition_penalty"] = 1.2  # as in the public repository, which has the model
    assert spec.sampling == SamplingParams(**theirs)
    assert (spec.clip.t3_s * 16_000, spec.clip.s3gen_s * 24_000) == (reference.ENC_COND_LEN, reference.DEC_COND_LEN)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.05, 5),
        "min_p": st.one_of(st.just(0), st.floats(0, 1)),
        "top_p": st.floats(0.01, 1),
        "top_k": st.integers(0, 2000),
        "cfg_weight": st.one_of(st.just(0), st.floats(0, 5)),
        "exaggeration": st.one_of(st.just(0.0), st.floats(0, 2)),
        "repetition_penalty": st.one_of(st.none(), st.floats(1, 10)),
        "max_new_tokens": st.one_of(st.none(), st.integers(1, 4096)),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@given(name=st.sampled_from(FAMILY), settings=SETTINGS)
def test_settings_go_over_the_family_s_defaults_and_what_it_lacks_is_refused(
    name: str, settings: dict[str, Any]
) -> None:
    spec = ModelSpec.load(SPECS / f"{name}.json")
    refused = [lacked for lacked in spec.lacking if settings.get(lacked, 0) != 0]
    if refused:
        with pytest.raises(InvalidRequest, match=f"{name} has no {refused[0]}. It has temperature, ") as caught:
            spec.sampling_for(settings)
        assert caught.value.param == refused[0]
        return
    made = spec.sampling_for(settings).model_dump()
    chosen = {key: value for key, value in settings.items() if value is not None and key not in spec.lacking}
    assert made == spec.sampling.model_dump() | chosen
    assert spec.t3.cfg or made["cfg_weight"] == 0


def test_what_each_family_lacks() -> None:
    lacking = {name: set(ModelSpec.load(SPECS / f"{name}.json").lacking) for name in FAMILY}
    llama, turbo = {"top_k"}, {"cfg_weight", "exaggeration", "min_p"}
    assert list(lacking.values()) == [llama, llama, llama, turbo, turbo]


@pytest.mark.parametrize("name", FAMILY)
def test_languages(name: str) -> None:
    spec = ModelSpec.load(SPECS / f"{name}.json")
    assert spec.language_for(None) == "en"
    for language in spec.languages:
        assert spec.language_for(language.upper()) == language
    for wrong in ("tlh", "", "english", "en-US", "[en]"):
        with pytest.raises(InvalidRequest, match=f"{name} does not speak '{re.escape(wrong)}'. It speaks") as caught:
            spec.language_for(wrong, "language_id")
        assert caught.value.param == "language_id"


@pytest.mark.parametrize("path", [dimensions.CONFIG, *SPECS.glob("*.json")], ids=lambda path: path.stem)
def test_a_config_file_reads_back_as_it_was_written(path: Path, tmp_path: Path) -> None:
    spec = ModelSpec.load(path)
    copy = tmp_path / "config.json"
    copy.write_text(spec.model_dump_json())
    assert ModelSpec.load(copy) == spec
    copy.write_text(spec.model_dump_json(exclude_unset=True))
    assert ModelSpec.load(copy) == spec


def test_unknown_dimensions_are_refused_and_specs_are_frozen(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"name": "x", "t3": {"layer": 3}}')
    with pytest.raises(ValidationError, match=r"t3\.layer\b"):
        ModelSpec.load(path)
    spec: Any = T3Spec()
    with pytest.raises(ValidationError, match="frozen"):
        spec.layers = 3
