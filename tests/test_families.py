"""Every family from its checkpoint to its audio, through both stages; what one lacks is refused by name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from chatterbox_engine import (
    EngineConfig,
    OptimizedChatterboxMultilingualTTS,
    OptimizedChatterboxTTS,
    OptimizedChatterboxTurboTTS,
)
from chatterbox_engine.checkpoint import FAMILY
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.types import SAMPLES_PER_TOKEN
from tests.families import save, small
from tests.test_voice import speechlike

TEXT = "Hello there, this is a test."
CONFIG = EngineConfig.profile(
    "balanced", watermark=False, t3={"precision": "fp32", "max_positions": 1024}, s3gen={"precision": "fp32"}
)
SHORT: dict[str, Any] = {"seed": 1, "max_new_tokens": 30}


@pytest.fixture(scope="module", params=FAMILY)
def tts(request: pytest.FixtureRequest) -> Iterator[OptimizedChatterboxTTS]:
    tts = OptimizedChatterboxTTS(small(request.param), "cpu", CONFIG)
    yield tts
    tts.close()


def test_each_family_speaks(tts: OptimizedChatterboxTTS) -> None:
    spec = tts.checkpoint.spec
    tokens = len(tts.speech_tokens(TEXT, **SHORT))
    wav = tts.generate(TEXT, **SHORT)
    assert 10 < tokens <= 30
    wanted = tokens + len(spec.s3gen.opening_tokens) + len(spec.s3gen.closing_tokens) - int(spec.s3gen.crop_last_token)
    assert wav.shape == (1, wanted * SAMPLES_PER_TOKEN)
    assert wav.std() > 0.001
    assert wav.isfinite().all()
    assert torch.equal(tts.speech_tokens(TEXT, **SHORT), tts.speech_tokens(TEXT, **SHORT))
    chunks = [chunk for chunk, _ in tts.generate_stream(TEXT, chunk_size=5, **SHORT)]
    assert len(chunks) > 1
    assert sum(chunk.shape[1] for chunk in chunks) == wav.shape[1]


def test_defaults_are_the_family_s_and_each_setting_has_an_effect(tts: OptimizedChatterboxTTS) -> None:
    spec = tts.checkpoint.spec
    given = {name: value for name, value in spec.defaults.items() if name != "max_new_tokens"}
    assert torch.equal(tts.speech_tokens(TEXT, **SHORT), tts.speech_tokens(TEXT, **SHORT, **given))
    sharp = {**SHORT, "temperature": 0.1}  # random weights give flat odds
    plain = tts.speech_tokens(TEXT, **sharp)
    changes = {"temperature": 3.0, "top_p": 0.1, "top_k": 1, "min_p": 0.9, "cfg_weight": 3.0, "exaggeration": 2.0}
    for name, value in changes.items():
        if name in spec.lacking:
            with pytest.raises(InvalidRequest, match=f"{spec.name} has no {name}") as caught:
                tts.generate(TEXT, **{**sharp, name: value})
            assert caught.value.param == name
            assert torch.equal(plain, tts.speech_tokens(TEXT, **sharp, **{name: 0}))
        else:
            assert not torch.equal(plain, tts.speech_tokens(TEXT, **{**sharp, name: value})), name


def test_the_language_is_heard(tts: OptimizedChatterboxTTS) -> None:
    spec = tts.checkpoint.spec
    sharp = {**SHORT, "temperature": 0.1}
    english = tts.speech_tokens(TEXT, **sharp)
    assert torch.equal(english, tts.speech_tokens(TEXT, language_id="EN", **sharp))
    others = ("fr", "ja", "zh", "ko")
    if len(spec.languages) == 1:
        for language in others:
            with pytest.raises(InvalidRequest, match=f"{spec.name} does not speak '{language}'") as caught:
                tts.speech_tokens(TEXT, language_id=language, **SHORT)
            assert caught.value.param == "language_id"
        return
    for language in others:
        assert not torch.equal(english, tts.speech_tokens(TEXT, language_id=language, **sharp))
    long = "今日は東京へ行きます。" * 12
    assert tts.generate(long, language_id="ja", seed=1, max_new_tokens=12).shape[1] > 2 * 5 * SAMPLES_PER_TOKEN


def test_a_voice_is_made_by_the_family_s_rules(tts: OptimizedChatterboxTTS, tmp_path: Path) -> None:
    spec = tts.checkpoint.spec
    for seconds, name in ((4.0, "short.wav"), (8.0, "long.wav")):
        soundfile.write(tmp_path / name, speechlike(seconds, 120), 24_000)
    before = tts._voice
    if spec.clip.min_s > 4.0:
        with pytest.raises(InvalidRequest, match=r"too short: 4\.0 s\. Send 5 to 30 s"):
            tts.generate(TEXT, audio_prompt_path=tmp_path / "short.wav", **SHORT)
        assert tts._voice is before
    wav = tts.generate(TEXT, audio_prompt_path=tmp_path / "long.wav", **SHORT)
    assert wav.shape[1] > 0
    assert tts._voice is not None
    assert tts._voice.t3_prompt.shape[1] == (200 if spec.clip.t3_s > 8 else 150)
    tts._voice = before


@pytest.mark.parametrize("name", FAMILY)
def test_a_folder_speaks_as_the_weights_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    save(small(name), tmp_path)
    with (
        contextlib.closing(OptimizedChatterboxTTS.from_local(tmp_path, "cpu", CONFIG)) as local,
        contextlib.closing(OptimizedChatterboxTTS(small(name), "cpu", CONFIG)) as drawn,
    ):
        own, theirs = (tts.speech_tokens(TEXT, **SHORT) for tts in (local, drawn))
        assert len(own) > 10
        assert torch.equal(own, theirs)
        own, theirs = (tts.generate(TEXT, **SHORT) for tts in (local, drawn))
        assert (own - theirs).abs().max() <= 1e-4


def test_the_families_classes_take_their_own_order(tmp_path: Path) -> None:
    multilingual = OptimizedChatterboxMultilingualTTS(small("chatterbox-multilingual"), "cpu", CONFIG)
    turbo = OptimizedChatterboxTurboTTS(small("chatterbox-turbo"), "cpu", CONFIG)
    with contextlib.closing(multilingual), contextlib.closing(turbo):
        ordered = multilingual.generate(TEXT, "fr", None, 0.7, 0.3, 0.9, 1.5, 0.1, 0.9, **SHORT)
        named = multilingual.generate(
            TEXT, language_id="fr", exaggeration=0.7, cfg_weight=0.3, temperature=0.9, repetition_penalty=1.5,
            min_p=0.1, top_p=0.9, **SHORT,
        )  # fmt: skip
        assert torch.equal(ordered, named)
        assert not torch.equal(ordered, multilingual.generate(TEXT, "fr", **SHORT))
        ordered = turbo.generate(TEXT, 1.5, 0.0, 0.9, None, 0.0, 0.0, 0.7, 50, True, **SHORT)
        named = turbo.generate(TEXT, repetition_penalty=1.5, top_p=0.9, temperature=0.7, top_k=50, **SHORT)
        assert torch.equal(ordered, named)
        path = tmp_path / "clip.wav"
        soundfile.write(path, speechlike(6.0, 120), 24_000)
        levelled, loud = (
            turbo.generate(TEXT, audio_prompt_path=path, norm_loudness=on, **SHORT) for on in (True, False)
        )
        assert levelled.shape != loud.shape or not torch.equal(levelled, loud)
    assert multilingual.get_supported_languages()["sw"] == "Swahili"
    assert (multilingual.MODEL, turbo.MODEL) == ("chatterbox-multilingual", "chatterbox-turbo")
