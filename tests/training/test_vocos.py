"""Vocos is distilled from any model that speaks, and the engine speaks with what comes out."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.sentences import SETS, sentences
from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from chatterbox_engine.checkpoint import find
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.types import SAMPLES_PER_FRAME
from training import dimensions, texts, vocos

MODEL = "dummy:tiny"
SAID = ("The house is warm.", "Hello there, Anna.", "A gentle river.")
STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a Vocos was trained for some steps, and its checkpoint."""
    folder = tmp_path_factory.mktemp("vocos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimensions, "LOGS", folder)
        patch.setattr(vocos, "BATCH", 2)
        patch.setattr(vocos, "SEGMENT_FRAMES", 24)
        patch.setattr(vocos, "HELD_OUT", 1)
        patch.setattr("training.loop.LOG_EVERY", STEPS)
        vocos.run(MODEL, folder, folder / "made", SAID, steps=STEPS)
        yield folder


def test_what_is_kept_is_the_vocoders_own_work(folder: Path) -> None:
    """HiFT makes of each kept mel the audio that is kept beside it."""
    model = OptimizedChatterboxTTS(find(MODEL, "cpu"), "cpu", EngineConfig.profile("balanced", watermark=False))
    hift = model._s3gen.model.vocoder
    with np.load(folder / "vocos.npz") as told:
        frames, mels, audio = told["frames"], told["mels"], told["audio"]
    try:
        assert len(frames) == len(SAID)
        assert len(mels) == frames.sum()
        assert len(audio) == SAMPLES_PER_FRAME * frames.sum()
        seeds = [derive_seed(index, 0) for index in range(len(SAID))]
        end = 0
        for count in frames:
            begin, end = end, end + count
            loud = audio[SAMPLES_PER_FRAME * begin : SAMPLES_PER_FRAME * end].astype(np.float32) / 32767
            assert loud.std() > 0.01
            mel = torch.from_numpy(mels[begin:end].astype(np.float32)).T
            with torch.inference_mode():
                made = [hift.advance([hift.open(seed)], [mel], [True])[0].numpy() for seed in seeds]
            likeness = sorted(np.corrcoef(loud, each)[0, 1] for each in made)
            assert likeness[-1] > 0.99, likeness  # the mel is kept in 16 bits
            assert likeness[-2] < 0.9, "a seed's phases and noise are its own"
    finally:
        model.close()


def test_it_learns_and_says_how_far(folder: Path) -> None:
    first, last = map(json.loads, (folder / "vocos.jsonl").read_text().splitlines())
    assert first["step"] == last["step"] == STEPS
    assert 0 < last["held_out"]["spectral"] < 10
    before = vocos.fresh(find(MODEL, "cpu")).state_dict()
    after = torch.load(folder / "vocos.pt", weights_only=True)["model"]
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_engine_speaks_with_it(folder: Path) -> None:
    file = folder / "made" / "vocos.safetensors"
    config = EngineConfig.profile("balanced", watermark=False, s3gen={"vocoder": "vocos", "vocos_file": str(file)})
    tts = OptimizedChatterboxTTS(find(MODEL, "cpu"), "cpu", config)
    try:
        network = tts._s3gen.model.vocoder.network
        assert isinstance(network, Vocos)
        trained = torch.load(folder / "vocos.pt", weights_only=True)["model"]
        for name, tensor in network.state_dict().items():
            most = trained[name].abs().max().item() / 120  # 8 bits
            torch.testing.assert_close(tensor, trained[name], atol=most, rtol=0)
        wav = tts.generate(SAID[0], seed=1, max_new_tokens=20)
        assert wav.isfinite().all()
        assert wav.std() > 1e-4
    finally:
        tts.close()


def test_another_models_speech_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"{MODEL}'s speech") as caught:
        vocos.Windows(folder / "vocos.npz", "demo")
    assert caught.value.param == "folder"


def test_windows_stay_in_their_pieces_and_apart_from_those_held_out(folder: Path) -> None:
    windows = vocos.Windows(folder / "vocos.npz", MODEL)
    with np.load(folder / "vocos.npz") as told:
        ends = np.cumsum(told["frames"])
    held_out, trained = windows._held_out, windows._trained
    assert held_out.max() + vocos.SEGMENT_FRAMES == ends[0]
    assert set(trained) == {
        start for begin, end in pairwise(ends) for start in range(begin, end - vocos.SEGMENT_FRAMES + 1)
    }
    mel, wave = windows.trained(3, 4)
    assert mel.shape == (4, 80, vocos.SEGMENT_FRAMES)
    assert wave.shape == (4, SAMPLES_PER_FRAME * vocos.SEGMENT_FRAMES)
    assert torch.equal(mel, windows.trained(3, 4)[0])
    assert not torch.equal(mel, windows.trained(4, 4)[0])


def test_plain_texts_share_no_run_of_five_words_with_what_judges_speech() -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[index : index + 5]) for index in range(len(words) - 4)}

    said = list(texts.plain(vocos.TEXTS))
    assert said == list(texts.plain(vocos.TEXTS))
    assert len(set(said)) > 0.9 * len(said)
    judged = {run for chosen in SETS for text in sentences(chosen) for run in runs(text)}
    assert not judged & {run for text in said for run in runs(text)}
