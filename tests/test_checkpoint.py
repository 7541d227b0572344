"""Checkpoints: each kind is found, and whatever is missing or damaged is named with the ways out."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.checkpoint import (
    CONFIG_FILE,
    FAMILY,
    S3GEN_FILE,
    T3_FILE,
    VOICE_ENCODER_FILE,
    WAYS_OUT,
    Checkpoint,
    find,
    from_reference,
)
from chatterbox_engine.errors import ChatterboxError, ModelUnavailable
from chatterbox_engine.spec import SPECS, FilesSpec, ModelSpec
from tests.families import save, small

FILES = FilesSpec()
T3, S3GEN, VOICE_ENCODER, TOKENIZER = FILES.t3, FILES.s3gen, FILES.voice_encoder, FILES.tokenizer
CONFIG = EngineConfig.profile(watermark=False, s3gen={"cfm_steps": 2})
TEXT = "The quick brown fox jumps over the lazy dog, again and again."


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, as a folder in the hub's layout."""
    folder = tmp_path_factory.mktemp("model")
    save(find("dummy:tiny", "cpu"), folder)
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
    demo, local = OptimizedChatterboxTTS.from_pretrained("cpu", CONFIG, model="dummy:tiny"), load(good)
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
    # A voice that was saved has its speaker with another length in the last bit, which rounding to 16 bits may enlarge.
    assert (own - theirs).abs().max() <= 1e-3
    for tts in speakers:
        tts.prepare_conditionals(clip)
    assert torch.equal(*(tts.speech_tokens(TEXT, seed=1, max_new_tokens=12) for tts in (local, demo)))


def test_the_smallest_dummy() -> None:
    tiny = find("dummy:tiny", "cuda")
    voice = tiny.voice()
    assert tiny.model == tiny.spec.name == "dummy:tiny"
    assert "noise" in tiny.spec.note
    assert voice is not None
    assert voice.id == "default"
    assert tiny.tokens_wanted("") == 5
    assert tiny.tokens_wanted("x" * 100) == 170


def test_the_bundled_voice() -> None:
    demo = find("auto", "cpu")
    voice = demo.voice()
    assert demo.model == demo.spec.name == "demo"
    assert find("demo", "cuda").spec == demo.spec
    assert voice is not None
    assert voice.id == "default"
    assert demo.spec.random_weights is None
    assert demo.tokens_wanted("x" * 100) is None
    assert "synthetic" in demo.spec.note


@pytest.mark.parametrize("name", FAMILY)
def test_dummies_have_the_full_architecture_and_are_not_drawn_before_they_are_asked_for(name: str) -> None:
    before = psutil.Process().memory_info().rss
    dummy = find(f"dummy:{name}", "cpu")
    voice = dummy.voice()
    assert psutil.Process().memory_info().rss - before < 100 * 2**20  # T3's weights alone would be 360 MB at least
    full = ModelSpec.load(SPECS / f"{name}.json")
    own = {"name": f"dummy:{name}", "note": dummy.spec.note, "random_weights": dummy.spec.random_weights}
    assert dummy.spec == full.model_copy(update=own)
    assert dummy.tokens_wanted("x" * 100) == 170
    assert voice is not None
    assert voice.t3_prompt.shape == (1, full.t3.prompt_tokens)
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
        ("parrot", r"no folder parrot and no model of that name.*`chatterbox-turbo`"),
        ("/nowhere#chatterbox", r"no folder /nowhere and"),
    ],
)
def test_what_cannot_be_found_says_so(model: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=reason):
        find(model, "cpu")


@pytest.mark.parametrize("file", [T3, S3GEN, VOICE_ENCODER, TOKENIZER])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelUnavailable) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert f"has no {file}" in str(caught.value)
    assert WAYS_OUT in str(caught.value)


def test_without_a_built_in_voice_one_must_be_given(folder: Path) -> None:
    (folder / FILES.voice).unlink()
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
@pytest.mark.parametrize("file", [T3, S3GEN, TOKENIZER, FILES.voice, CONFIG_FILE])
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


@pytest.mark.parametrize(("file", "name"), [(T3, "speech_head.weight"), (S3GEN, "flow.encoder_proj.weight")])
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
    replace(folder / VOICE_ENCODER, b"garbage")
    tts = load(folder)
    with pytest.raises(ModelUnavailable, match=VOICE_ENCODER):
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


@pytest.fixture(scope="module", params=FAMILY)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small model of each family, as a folder in the hub's layout."""
    folder = tmp_path_factory.mktemp(request.param)
    save(small(request.param), folder)
    return request.param, folder


def test_every_family_opens_from_a_folder(family: tuple[str, Path]) -> None:
    name, folder = family
    own, made = small(name), find(str(folder), "cpu")
    assert made.spec == own.spec.model_copy(update={"random_weights": None})
    voice, drawn = made.voice(), own.voice()
    assert voice is not None
    assert drawn is not None
    assert torch.equal(voice.t3_prompt, drawn.t3_prompt)
    assert made.tokenizer().encode("Hello.") == own.tokenizer().encode("Hello.")
    for part, tensor in ((T3_FILE, "speech_head.weight"), (S3GEN_FILE, "flow.encoder_proj.weight"),
                         (VOICE_ENCODER_FILE, "proj.weight")):  # fmt: skip
        t3 = own.spec.t3
        shape = {T3_FILE: (t3.speech_vocab, t3.width), S3GEN_FILE: (80, 128), VOICE_ENCODER_FILE: (256, 256)}[part]
        assert torch.equal(made.weights(part).take(tensor, shape), own.weights(part).take(tensor, shape))


def test_a_folder_without_a_config_is_recognised_by_its_files(family: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = family
    copy = tmp_path / "model"
    shutil.copytree(folder, copy, copy_function=os.link)
    (copy / CONFIG_FILE).unlink()
    full = ModelSpec.load(SPECS / f"{name}.json")
    assert find(str(copy), "cpu").spec == full
    assert find(f"{copy}#{name}", "cpu").spec == full
    other = next(n for n in FAMILY if ModelSpec.load(SPECS / f"{n}.json").files.t3 != full.files.t3)
    with pytest.raises(ModelUnavailable, match=r"has no t3_"):
        find(f"{copy}#{other}", "cpu")


def test_one_folder_may_hold_several_models(tmp_path: Path) -> None:
    for name in ("chatterbox", "chatterbox-multilingual", "chatterbox-multilingual-v3"):
        save(small(name), tmp_path)
    (tmp_path / CONFIG_FILE).unlink()
    assert find(str(tmp_path), "cpu").spec.name == "chatterbox"
    for name in ("chatterbox", "chatterbox-multilingual", "chatterbox-multilingual-v3"):
        found = find(f"{tmp_path}#{name}", "cpu")
        assert (found.spec.name, found.model) == (name, f"{tmp_path}#{name}")
    (tmp_path / T3).unlink()
    assert find(str(tmp_path), "cpu").spec.name == "chatterbox-multilingual"


def test_a_pt_file_may_be_a_safetensors_one_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    save(small("chatterbox-multilingual"), tmp_path)
    path = tmp_path / "s3gen.pt"
    tensors = torch.load(path, weights_only=True)
    name, shape = "flow.encoder_proj.bias", (80,)
    content = path.read_bytes()
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for wrong in (content[:5000], b"", b"no pickle", (tmp_path / "tensor.pt").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(ModelUnavailable, match=r"s3gen\.pt cannot be read"):
            find(str(tmp_path), "cpu").weights(S3GEN_FILE)
    path.unlink()
    with pytest.raises(ModelUnavailable, match=r"has no s3gen\.pt"):
        find(str(tmp_path), "cpu")
    save_file(tensors, path.with_suffix(".safetensors"))
    taken = find(str(tmp_path), "cpu").weights(S3GEN_FILE).take(name, shape)
    assert torch.equal(taken, tensors[name])


def test_a_gpt2_tokenizer_may_be_kept_in_pieces(tmp_path: Path) -> None:
    save(small("chatterbox-nano"), tmp_path)
    whole = find(str(tmp_path), "cpu").tokenizer()
    vocabulary = json.loads((tmp_path / TOKENIZER).read_text())
    (tmp_path / TOKENIZER).unlink()
    with pytest.raises(ModelUnavailable, match=r"has no tokenizer\.json"):
        find(str(tmp_path), "cpu")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({t["content"]: t["id"] for t in vocabulary["added_tokens"]}))
    pieces = find(str(tmp_path), "cpu").tokenizer()
    for text in ("Hello [laugh] there.", "[clear throat]", "é\n"):
        assert pieces.encode(text) == whole.encode(text)


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
    assert all(file in message for file in (T3, S3GEN, VOICE_ENCODER, TOKENIZER, WAYS_OUT))


@pytest.mark.usefixtures("silent_hub")
@pytest.mark.parametrize("name", FAMILY)
def test_a_name_looks_for_its_own_files_at_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = ModelSpec.load(SPECS / f"{name}.json")
    assert spec.hub is not None
    for model in (name, f"{spec.hub}#{name}"):
        message = refused(model)
        assert message.startswith(f"{spec.hub}: ")
        assert all(file in message for file in spec.files.model_dump().values() if file)
    if name in ("chatterbox", "chatterbox-turbo", "chatterbox-nano"):
        assert spec.files.t3 in refused(spec.hub)


def test_no_network_and_no_such_id_are_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    assert WAYS_OUT in refused("nobody/no-such-model")
    assert WAYS_OUT in refused("not an id/at all")


def test_a_model_in_memory_says_its_own_depths(reference_tts: Any) -> None:
    checkpoint: Checkpoint = from_reference(reference_tts)
    spec = checkpoint.spec
    assert checkpoint.model == "ChatterboxTTS in memory"
    assert spec.t3.layers == 2
    assert (spec.s3gen.encoder.blocks, spec.s3gen.encoder.up_blocks) == (2, 1)
    assert (spec.s3gen.estimator.mid_stages, spec.s3gen.estimator.stage_blocks) == (3, 1)
    assert (spec.speech_tokenizer.width, spec.speech_tokenizer.layers) == (128, 2)
    full = ModelSpec.load(SPECS / "chatterbox.json")
    # Heads of layers that are not there cannot be read.
    assert spec.t3 == full.t3.model_copy(update={"layers": 2, "aligned_heads": ()})
    assert spec.s3gen.hift == full.s3gen.hift
