"""ModelSpec: its defaults are the reference's own dimensions, and every tensor asked for is one that it has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from chatterbox_engine.checkpoint import DEMO
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.spec import SPECS, ModelSpec, RopeSpec, T3Spec
from chatterbox_engine.t3.model import T3Model, _Fused
from chatterbox_engine.weights import StateDictWeights


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


def test_at_full_size_every_tensor_is_one_of_the_references() -> None:
    """On the meta device, where tensors have shapes and no content."""
    from chatterbox.models.s3gen import S3Gen
    from chatterbox.models.t3 import T3

    spec = ModelSpec.load(SPECS / "chatterbox.json")
    with torch.device("meta"):
        t3, s3gen = T3().state_dict(), S3Gen().state_dict()
        model, flow = T3Model(spec.t3), Flow(spec.s3gen)
    hift = HiFT(spec.s3gen.hift, spec.s3gen.mel_bins)
    theirs: Any = StateDictWeights(t3, "T3")
    parts = [
        (model, _Fused(theirs), ""),
        (flow, StateDictWeights(s3gen, "S3Gen"), "flow."),
        (hift, StateDictWeights(s3gen, "S3Gen"), "mel2wav."),
    ]
    for module, weights, prefix in parts:
        for name, tensor in module.state_dict().items():
            weights.take(prefix + name, tuple(tensor.shape))
    taken = sum(parameter.numel() for parameter in model.parameters())
    unused = ("text_head", "tfmr.embed_tokens")
    assert taken == sum(tensor.numel() for name, tensor in t3.items() if not name.startswith(unused))
    in_flow = sum(tensor.numel() for name, tensor in s3gen.items() if name.startswith("flow."))
    assert sum(parameter.numel() for parameter in flow.parameters()) == in_flow


@pytest.mark.parametrize("path", [DEMO / "config.json", *SPECS.glob("*.json")], ids=lambda path: path.stem)
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
