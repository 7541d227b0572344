"""Vocos against the package `vocos`, and where the engine takes its weights from."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.checkpoint import VOCOS_SPEC, find
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.spec import VocosSpec
from chatterbox_engine.weights import RandomWeights, StateDictWeights, load
from tests.families import save
from tests.s3gen.conftest import MEL_BINS, randomize

SYMMETRIC = VocosSpec(width=48, mlp_width=96, layers=3, ahead=3)
TEXT = "Hello there."


@pytest.fixture(scope="module")
def package() -> Iterator[ModuleType]:
    """The package `vocos` without its `__init__`, which imports the codec encodec, of which nothing here is used."""
    found = importlib.util.find_spec("vocos")
    assert found is not None
    bare = ModuleType("vocos")
    bare.__path__ = found.submodule_search_locations or []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vocos", bare)
        for name in ("vocos.models", "vocos.heads"):
            importlib.import_module(name)
        yield bare
    for name in [name for name in sys.modules if name.startswith("vocos.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def reference(package: Any) -> Any:
    """The package's own network and head, with random weights."""
    spec = SYMMETRIC
    network = torch.nn.Module()
    network.backbone = package.models.VocosBackbone(MEL_BINS, spec.width, spec.mlp_width, spec.layers)
    network.head = package.heads.ISTFTHead(spec.width, spec.n_fft, spec.hop, padding="same")
    randomize(network, 1)
    return network


def loaded(state: dict[str, Tensor], spec: VocosSpec) -> Vocos:
    with torch.device("meta"):
        vocos = Vocos(spec, MEL_BINS)
    load(vocos, StateDictWeights(state, "the package's"))
    return vocos


def mel(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(2, MEL_BINS, frames, generator=torch.Generator().manual_seed(seed)) * 2.0 - 4.0


@pytest.mark.parametrize("frames", [1, 2, 7, 60])
def test_it_equals_the_package(reference: Any, frames: int) -> None:
    own = loaded(reference.state_dict(), SYMMETRIC)(mel(frames))
    theirs = reference.head(reference.backbone(mel(frames)))
    assert own.shape == (2, 480 * frames)
    assert 0.01 < theirs.abs().max() < 1.0
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


def test_every_tensor_of_the_package_has_its_place(reference: Any) -> None:
    names = set(reference.state_dict()) - {"head.istft.window"}  # a Hann window, computed
    assert names == set(loaded(reference.state_dict(), SYMMETRIC).state_dict())


def test_ahead_is_what_a_block_sees_of_what_comes(reference: Any) -> None:
    def seen(ahead: int) -> int:
        vocos = loaded(reference.state_dict(), SYMMETRIC.model_copy(update={"ahead": ahead}))
        with torch.no_grad():
            changed = mel(60)
            changed[:, :, 40] += 3.0
            differs = (vocos.backbone(changed) - vocos.backbone(mel(60)))[0].abs().amax(1) > 0
        return 40 - int(differs.nonzero().min())

    assert [seen(ahead) for ahead in (0, 1, 3)] == [3, 6, 12]


def test_what_is_too_loud_is_clipped() -> None:
    vocos = Vocos(SYMMETRIC, MEL_BINS)
    randomize(vocos, 2)
    vocos.head.out.bias.data[: SYMMETRIC.n_fft // 2 + 1] = 8.0
    assert vocos(mel(10)).abs().max() == 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder without a Vocos."""
    folder = tmp_path_factory.mktemp("model")
    save(find("dummy:tiny", "cpu"), folder)
    return folder


def written(to: Path, metadata: dict[str, str] | None) -> None:
    spec = find("dummy:tiny", "cpu").spec.s3gen.vocos
    vocos = Vocos(spec, MEL_BINS)
    load(vocos, RandomWeights(1))
    save_file(vocos.state_dict(), to, metadata)


def refused(folder: Path, **switches: str) -> str:
    config = EngineConfig.profile("balanced", s3gen={"vocoder": "vocos", **switches})
    with pytest.raises(ModelUnavailable) as caught:
        OptimizedChatterboxTTS.from_local(folder, "cpu", config)
    return str(caught.value)


def test_a_model_without_one_says_how_to_come_by_it(folder: Path, tmp_path: Path) -> None:
    for message in (refused(folder), refused(folder, vocos_file=str(tmp_path / "mine.safetensors"))):
        assert f"python -m training vocos --model {folder}" in message
        assert "s3gen.vocos_file" in message
    assert str(tmp_path / "mine.safetensors") in message


def test_a_file_that_does_not_say_what_it_is_is_refused(folder: Path, tmp_path: Path) -> None:
    for metadata in (None, {VOCOS_SPEC: '{"width": "wide"}'}):
        written(tmp_path / "vocos.safetensors", metadata)
        assert "does not say which Vocos" in refused(folder, vocos_file=str(tmp_path / "vocos.safetensors"))
    written(tmp_path / "vocos.safetensors", {VOCOS_SPEC: VocosSpec().model_dump_json()})
    assert "belongs to another model" in refused(folder, vocos_file=str(tmp_path / "vocos.safetensors"))


def test_hift_is_not_kept_where_vocos_speaks() -> None:
    config = EngineConfig.profile("balanced", watermark=False, s3gen={"vocoder": "vocos"})
    checkpoint = find("dummy:tiny", "cpu")
    assert checkpoint.vocos(S3GenSwitches()) is None
    tts = OptimizedChatterboxTTS(checkpoint, "cpu", config)
    try:
        model = tts._s3gen.model
        kept = {name for part in (model.flow, model.vocoder.network) for name, _ in part.named_parameters()}
        assert isinstance(model.vocoder.network, Vocos)
        assert not any("f0_predictor" in name for name in kept)
    finally:
        tts.close()


def test_a_models_own_vocos_and_one_by_name_speak_the_same(folder: Path, tmp_path: Path) -> None:
    spec = find("dummy:tiny", "cpu").spec.s3gen.vocos.model_dump_json()
    written(tmp_path / "another.safetensors", {VOCOS_SPEC: spec})

    def spoken(vocoder: str, file: Path | None = None) -> tuple[Tensor, Tensor]:
        """In one pass and as a stream."""
        s3gen = {"vocoder": vocoder, "vocos_file": None if file is None else str(file), "precision": "fp32"}
        config = EngineConfig.profile("balanced", watermark=False, s3gen={**s3gen, "chunk_schedule": (4,)})
        tts = OptimizedChatterboxTTS.from_local(folder, "cpu", config)
        try:
            streamed = [chunk for chunk, _ in tts.generate_stream(TEXT, seed=1, max_new_tokens=20)]
            return tts.generate(TEXT, seed=1, max_new_tokens=20), torch.cat(streamed, dim=1)
        finally:
            tts.close()

    named, in_chunks = spoken("vocos", tmp_path / "another.safetensors")
    assert named.shape == in_chunks.shape
    assert named.shape[1] > 10 * 960
    assert named.abs().max() > 1e-3
    written(folder / "vocos.safetensors", {VOCOS_SPEC: spec})
    try:
        own, _ = spoken("vocos")
    finally:
        (folder / "vocos.safetensors").unlink()
    assert torch.equal(named, own)
    assert not torch.equal(named, spoken("hift")[0])
