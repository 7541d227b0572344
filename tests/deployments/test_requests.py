"""Request bodies, and the bytes of the answer."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.types import SamplingParams
from deployments.requests import SpeechBody
from deployments.wav import pcm16, wav_header

ENGLISH = ModelSpec.load(SPECS / "chatterbox.json")


def test_a_body_carries_the_engine_s_settings_and_a_seed_of_its_own() -> None:
    bare = SpeechBody(input="Hello.").sampling(ENGLISH)
    assert bare == SamplingParams(seed=bare.seed)
    assert bare.seed != SpeechBody(input="Hello.").sampling(ENGLISH).seed
    given_all = {"temperature": 1, "min_p": 0.1, "top_p": 0.9, "repetition_penalty": 1.5, "cfg_weight": 0,
                 "exaggeration": 1.2, "max_new_tokens": 30, "seed": 7}  # fmt: skip
    body = SpeechBody.model_validate({"input": "Hello.", **given_all})
    assert body.sampling(ENGLISH) == SamplingParams(**given_all)


def test_a_body_has_every_setting_within_the_engine_s_bounds() -> None:
    engine, body = (model.model_json_schema()["properties"] for model in (SamplingParams, SpeechBody))
    for name, bounds in engine.items():
        assert body[name]["default"] is None
        own, null = body[name]["anyOf"]
        assert null == {"type": "null"}
        assert own == {key: value for key, value in bounds.items() if key not in ("title", "default")}


def test_a_body_that_names_what_the_model_lacks_is_refused_by_the_setting_s_name() -> None:
    turbo = ModelSpec.load(SPECS / "chatterbox-turbo.json")
    for name in ("cfg_weight", "exaggeration", "min_p"):
        with pytest.raises(InvalidRequest, match=f"chatterbox-turbo has no {name}") as caught:
            SpeechBody.model_validate({"input": "Hello.", name: 0.5}).sampling(turbo)
        assert caught.value.param == name
        neutral = SpeechBody.model_validate({"input": "Hello.", name: 0, "seed": 3}).sampling(turbo)
        assert neutral == turbo.sampling.model_copy(update={"seed": 3})


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), [1]])
def test_numbers_must_be_numbers(value: object) -> None:
    with pytest.raises(ValidationError):
        SpeechBody.model_validate({"input": "Hello.", "temperature": value})


@given(st.lists(st.floats(-4, 4, width=32), max_size=50))
def test_pcm_is_the_samples_rounded_and_clipped(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    back = np.frombuffer(pcm16(samples), "<i2") / 32767
    assert np.abs(back - np.clip(samples, -1, 1)).max(initial=0) <= 0.5 / 32767 + 1e-7


def test_the_header_is_one_that_players_read() -> None:
    samples = np.sin(np.arange(2400) / 10).astype(np.float32)
    read, rate = soundfile.read(io.BytesIO(wav_header() + pcm16(samples)))
    assert rate == 24_000
    assert np.abs(read - samples).max() < 1e-3
