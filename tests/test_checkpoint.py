"""Checkpoints: each kind is found, and whatever is missing or damaged is named with the ways out."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.checkpoint import (
    CONFIG_FILE,
    DEMO,
    S3GEN_FILE,
    T3_FILE,
    TOKENIZER_FILE,
    VOICE_ENCODER_FILE,
    VOICE_FILE,
    WAYS_OUT,
    Checkpoint,
    find,
    from_reference,
)
from chatterbox_engine.errors import ChatterboxError, ModelUnavailable
from chatterbox_engine.s3gen.engine import S3GenModel
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.weights import RandomWeights

CPU = torch.device("cpu")
CONFIG = EngineConfig.profile(watermark=False, s3gen={"cfm_steps": 2})
TEXT = "The quick brown fox jumps over the lazy dog, again and again."


class Recorder(RandomWeights):
    """Random weights that remember what was taken: the tensors of a model under the reference's names."""

    def __init__(self) -> None:
        super().__init__(0)
        self.tensors: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.tensors[name] = super().take(name, shape)
        return self.tensors[name]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, as a folder in the hub's layout."""
    folder = tmp_path_factory.mktemp("model")
    demo = find("demo", "cpu")
    t3, s3gen, ve = Recorder(), Recorder(), Recorder()
    T3Model.from_weights(demo.spec.t3, t3, 64, torch.float32, CPU)
    S3GenModel(demo.spec.s3gen, s3gen, torch.float32, CPU)
    VoiceEncoder(demo.spec, ve, s3gen)
    for file, recorder in ((T3_FILE, t3), (S3GEN_FILE, s3gen), (VOICE_ENCODER_FILE, ve)):
        save_file(recorder.tensors, folder / file)
    shutil.copy(DEMO / TOKENIZER_FILE, folder)
    (folder / CONFIG_FILE).write_text(demo.spec.model_copy(update={"random_weights": None}).model_dump_json())
    voice = demo.voice()
    assert voice is not None
    t3_part = {
        "speaker_emb": voice.speaker,
        "cond_prompt_speech_tokens": voice.t3_prompt,
        "emotion_adv": torch.full((1, 1, 1), 0.5),
    }
    gen_part = {"prompt_token": voice.s3gen_prompt, "prompt_feat": voice.s3gen_feat, "embedding": voice.s3gen_speaker}
    torch.save({"t3": t3_part, "gen": gen_part}, folder / VOICE_FILE)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to damage; its large files are links, to be replaced and not written to."""
    copy = tmp_path / "model"
    shutil.copytree(good, copy, copy_function=os.link)
    return copy


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def engines() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name in ("t3", "s3gen")}


def load(folder: Path) -> OptimizedChatterboxTTS:
    return OptimizedChatterboxTTS.from_local(folder, device="cpu", config=CONFIG)


@pytest.fixture
def speakers(good: Path) -> Iterator[tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS]]:
    demo, local = OptimizedChatterboxTTS.from_pretrained("cpu", CONFIG, model="demo"), load(good)
    yield demo, local
    demo.close()
    local.close()


def test_a_folder_speaks_as_the_model_that_it_was_made_of(
    speakers: tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS], clip: Path
) -> None:
    demo, local = speakers
    assert local.checkpoint.tokens_wanted(TEXT) is None
    for seed in (1, 2):
        own, theirs = (tts.speech_tokens(TEXT, seed=seed, max_new_tokens=40) for tts in (local, demo))
        assert len(own) > 20
        assert torch.equal(own, theirs)
    own, theirs = (tts.generate(TEXT, seed=1, max_new_tokens=12) for tts in (local, demo))
    assert own.std() > 0.001
    assert (own - theirs).abs().max() <= 1e-4
    for tts in speakers:
        tts.prepare_conditionals(clip)
    assert torch.equal(*(tts.speech_tokens(TEXT, seed=1, max_new_tokens=12) for tts in (local, demo)))


def test_the_demo() -> None:
    demo = find("demo", "cuda")
    voice = demo.voice()
    assert demo.model == demo.spec.name == "demo"
    assert "noise" in demo.spec.note
    assert voice is not None
    assert voice.id == "default"
    assert demo.tokens_wanted("") == 5
    assert demo.tokens_wanted("x" * 100) == 170
    assert find("auto", "cpu").model == "demo"


def test_dummies_have_the_full_architecture_and_are_not_drawn_before_they_are_asked_for() -> None:
    begin = time.monotonic()
    dummy = find("dummy:chatterbox", "cpu")
    voice = dummy.voice()
    assert time.monotonic() - begin < 2.0
    full = ModelSpec.load(SPECS / "chatterbox.json")
    assert (dummy.spec.t3, dummy.spec.s3gen) == (full.t3, full.s3gen)
    assert dummy.spec.name == "dummy:chatterbox"
    assert dummy.tokens_wanted("x" * 100) == 170
    assert voice is not None
    assert voice.s3gen_prompt.shape == (1, 250)
    assert voice.s3gen_feat.shape == (1, 500, 80)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("dummy:parrot", r"no dummy:parrot.*dummy:chatterbox"),
        ("dummy:", r"dummy:chatterbox"),
        ("/nowhere/at/all", r"no folder /nowhere/at/all"),
        ("./nowhere", r"no folder \./nowhere"),
        ("~nobody-of-this-name/model", r"no folder ~nobody"),
        ("chatterbox", r"no folder chatterbox and no model of that name"),
    ],
)
def test_what_cannot_be_found_says_so(model: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=reason):
        find(model, "cpu")


@pytest.mark.parametrize("file", [T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE, TOKENIZER_FILE])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelUnavailable) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert f"has no {file}" in str(caught.value)
    assert WAYS_OUT in str(caught.value)


def test_without_a_built_in_voice_one_must_be_given(folder: Path) -> None:
    (folder / VOICE_FILE).unlink()
    tts = load(folder)
    assert tts.conds is None
    with pytest.raises(ChatterboxError, match="prepare_conditionals"):
        tts.generate(TEXT)
    tts.close()


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def garbage(content: bytes) -> bytes:
    return b"\xff\xfe{garbage]" * 20


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, garbage, empty])
@pytest.mark.parametrize("file", [T3_FILE, S3GEN_FILE, TOKENIZER_FILE, VOICE_FILE, CONFIG_FILE])
def test_a_damaged_file_is_named_and_no_engine_is_left_running(
    folder: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    path = folder / file
    replace(path, damage(path.read_bytes()))
    before = engines()
    with pytest.raises(ModelUnavailable) as caught:
        load(folder)
    assert str(path) in str(caught.value)
    assert engines() == before


@pytest.mark.parametrize(("file", "name"), [(T3_FILE, "speech_head.weight"), (S3GEN_FILE, "flow.encoder_proj.weight")])
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(folder: Path, file: str, name: str) -> None:
    tensors = load_file(folder / file)
    for wrong in ({**tensors, name: torch.zeros(2, 2)}, {key: value for key, value in tensors.items() if key != name}):
        (folder / file).unlink()
        save_file(wrong, folder / file)
        with pytest.raises(ModelUnavailable) as caught:
            load(folder)
        assert str(folder / file) in str(caught.value)
        assert name in str(caught.value)


def test_a_damaged_voice_encoder_is_named_when_a_voice_is_made(folder: Path, clip: Path) -> None:
    replace(folder / VOICE_ENCODER_FILE, b"garbage")
    tts = load(folder)
    with pytest.raises(ModelUnavailable, match=VOICE_ENCODER_FILE):
        tts.prepare_conditionals(clip)
    assert len(tts.speech_tokens(TEXT, seed=1, max_new_tokens=5)) <= 5  # the voice before it stays
    tts.close()


def test_a_config_of_another_kind_is_passed_over(folder: Path) -> None:
    for content in ({}, {"model_type": "chatterbox"}):
        replace(folder / CONFIG_FILE, json.dumps(content).encode())
        assert find(str(folder), "cpu").spec == ModelSpec.load(SPECS / "chatterbox.json")
    replace(folder / CONFIG_FILE, b'{"name": "x", "t3": {"layers": "many"}}')
    with pytest.raises(ModelUnavailable, match=r"layers") as caught:
        find(str(folder), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["t3_turbo_v1.safetensors", "t3_nano_v1.safetensors", "t3_mtl23ls_v2.safetensors"])
def test_another_familys_folder_is_refused_by_name(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"")
    family = {"turbo": "Turbo", "nano": "Nano", "mtl23ls": "Multilingual"}[file.split("_")[1]]
    with pytest.raises(ModelUnavailable, match=f"Chatterbox {family}, which this version does not serve"):
        find(str(tmp_path), "cpu")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes calls and never answers, as a firewall makes it."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setattr("chatterbox_engine.checkpoint._HUB_ANSWER_S", 0.3)
        yield


def refused(model: str) -> str:
    begin = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        find(model, "cpu")
    assert time.monotonic() - begin < 10.0
    return str(caught.value)


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_given_up_on(tmp_path: Path) -> None:
    message = refused("nobody/no-such-model")
    assert "timed out" in message
    assert all(file in message for file in (T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE, TOKENIZER_FILE, WAYS_OUT))


def test_no_network_and_no_such_id_are_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    assert WAYS_OUT in refused("nobody/no-such-model")
    assert WAYS_OUT in refused("not an id/at all")


def test_a_model_in_memory_says_its_own_depths(reference_tts: Any) -> None:
    checkpoint: Checkpoint = from_reference(reference_tts)
    spec = checkpoint.spec
    assert spec.t3.layers == 2
    assert (spec.s3gen.encoder.blocks, spec.s3gen.encoder.up_blocks) == (2, 1)
    assert (spec.s3gen.estimator.mid_stages, spec.s3gen.estimator.stage_blocks) == (3, 1)
    assert (spec.speech_tokenizer.width, spec.speech_tokenizer.layers) == (128, 2)
    full = ModelSpec.load(SPECS / "chatterbox.json")
    assert spec.t3.model_copy(update={"layers": 30}) == full.t3
    assert spec.s3gen.hift == full.s3gen.hift


@pytest.mark.parametrize(("is_gpt", "is_multilingual"), [(True, False), (False, True)])
def test_another_familys_model_in_memory_is_refused(is_gpt: bool, is_multilingual: bool) -> None:
    model: Any = SimpleNamespace(t3=SimpleNamespace(is_gpt=is_gpt, hp=SimpleNamespace(is_multilingual=is_multilingual)))
    with pytest.raises(ModelUnavailable, match="not served yet"):
        from_reference(model)
