"""Voices: the reference's numbers from the reference's modules, and files that keep them."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save

from chatterbox_engine.clip import read_clip
from chatterbox_engine.errors import InvalidRequest, ModelUnavailable
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.types import DEFAULT_VOICE
from chatterbox_engine.voice import HEADER_BYTES, Voice, read_info
from chatterbox_engine.voice_encoder import VoiceEncoder, levelled
from chatterbox_engine.weights import RandomWeights, StateDictWeights
from tests.families import small

TENSORS = ("speaker", "t3_prompt", "s3gen_prompt", "s3gen_feat", "s3gen_speaker")
SPEC = ModelSpec.load(SPECS / "tiny.json")


def speechlike(seconds: float, pitch: float) -> np.ndarray:
    """Harmonics that come and go, (n,) float64 at 24 kHz."""
    t = np.arange(int(seconds * 24_000)) / 24_000
    sound = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, 15))
    return 0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)) + 0.002 * np.random.default_rng(0).standard_normal(
        len(t)
    )


def made_up(frames: int = 20) -> Voice:
    generator = torch.Generator().manual_seed(3)
    return Voice(
        "voice_0123456789abcdef", "Anna — Ünïcode", 1_700_000_000, "demo",
        torch.randn(1, 256, generator=generator),
        torch.randint(0, 6561, (1, 15), generator=generator),
        torch.randint(0, 6561, (1, frames // 2), generator=generator),
        torch.randn(1, frames, 80, generator=generator),
        torch.randn(1, 192, generator=generator),
    )  # fmt: skip


def same(one: Voice, two: Voice) -> bool:
    return one.info == two.info and all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    weights = RandomWeights(0)
    return VoiceEncoder(SPEC, weights, weights)


def embedder(encoder: VoiceEncoder) -> Any:
    """chatterbox's own S3Token2Mel with the encoder's parts and no flow."""
    from chatterbox.models.s3gen.s3gen import S3Token2Mel
    from chatterbox.models.s3gen.utils.mel import mel_spectrogram

    class Embedder(S3Token2Mel):
        dtype = torch.float32

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.tokenizer, self.speaker_encoder = encoder.reference.tokenizer, encoder.reference.speaker_encoder
            self.mel_extractor = mel_spectrogram

    return Embedder()


@pytest.mark.parametrize("seconds", [3.37, 12.0])
def test_encoding_equals_the_reference(encoder: VoiceEncoder, tmp_path: Path, seconds: float) -> None:
    """prepare_conditionals of the reference's own class, with the same small modules in it."""
    from chatterbox.tts import ChatterboxTTS

    path = tmp_path / "clip.wav"
    soundfile.write(path, speechlike(seconds, 120), 24_000)
    reference = ChatterboxTTS.__new__(ChatterboxTTS)
    reference.device = "cpu"
    reference.t3 = SimpleNamespace(hp=SimpleNamespace(speech_cond_prompt_len=150))
    reference.s3gen, reference.ve = embedder(encoder), encoder.speaker
    reference.prepare_conditionals(path)

    voice = encoder.encode(read_clip(path), "Anna")
    frames = voice.s3gen_feat.shape[1]
    assert frames == 2 * voice.s3gen_prompt.shape[1] == 2 * min(250, int(seconds * 25))
    assert torch.equal(voice.speaker, reference.conds.t3.speaker_emb)
    assert torch.equal(voice.t3_prompt, reference.conds.t3.cond_prompt_speech_tokens)
    assert torch.equal(voice.s3gen_prompt, reference.conds.gen["prompt_token"])
    assert torch.equal(voice.s3gen_feat, reference.conds.gen["prompt_feat"][:, :frames])
    assert torch.equal(voice.s3gen_speaker, reference.conds.gen["embedding"])
    assert not any(getattr(voice, name).is_inference() for name in TENSORS)

    again = Voice.from_conditionals(reference.conds, "Anna", "demo", id=voice.id)
    assert all(torch.equal(getattr(voice, name), getattr(again, name)) for name in TENSORS)
    assert (
        Voice.from_conditionals(voice.to_conditionals(), "a", "m").id
        == Voice.from_conditionals(again.to_conditionals(), "b", "m").id
    )


@pytest.mark.parametrize("norm_loudness", [True, False])
def test_encoding_equals_the_turbo_reference(encoder: VoiceEncoder, tmp_path: Path, norm_loudness: bool) -> None:
    """Levelled to -27 LUFS, 15 s of it for T3; the reference's own class, with the same small modules in it."""
    from chatterbox.tts_turbo import ChatterboxTurboTTS

    path = tmp_path / "clip.wav"
    soundfile.write(path, 4.0 * speechlike(17.0, 120), 24_000)
    reference = ChatterboxTurboTTS.__new__(ChatterboxTurboTTS)
    reference.device = "cpu"
    reference.t3 = SimpleNamespace(hp=SimpleNamespace(speech_cond_prompt_len=375))
    reference.s3gen, reference.ve = embedder(encoder), encoder.speaker
    # Its gain is a NumPy scalar, which from NumPy 2 on makes the clip float64, and its own encoder refuses that.
    reference.norm_loudness = lambda wav, sr: ChatterboxTurboTTS.norm_loudness(reference, wav, sr).astype(np.float32)
    reference.prepare_conditionals(path, norm_loudness=norm_loudness)

    turbo = small("chatterbox-turbo").spec
    own = VoiceEncoder(turbo, *(StateDictWeights(m.state_dict(), "") for m in (encoder.speaker, encoder.reference)))
    clip = read_clip(path, min_s=turbo.clip.min_s, max_s=turbo.clip.max_s)
    voice = own.encode(clip, "Anna", norm_loudness=norm_loudness)
    assert voice.t3_prompt.shape == (1, 375)
    assert torch.equal(voice.t3_prompt, reference.conds.t3.cond_prompt_speech_tokens)
    assert torch.equal(voice.s3gen_prompt, reference.conds.gen["prompt_token"])
    feat = reference.conds.gen["prompt_feat"][:, : voice.s3gen_feat.shape[1]]
    for tensor, expected in ((voice.speaker, reference.conds.t3.speaker_emb), (voice.s3gen_feat, feat),
                             (voice.s3gen_speaker, reference.conds.gen["embedding"])):  # fmt: skip
        torch.testing.assert_close(tensor, expected, atol=1e-4, rtol=0)
    assert voice.id != own.encode(clip, "Anna", norm_loudness=not norm_loudness).id


@pytest.mark.parametrize("gain", [0.01, 0.3, 1.0])
def test_a_clip_is_brought_to_the_loudness_asked_for(gain: float) -> None:
    import pyloudnorm

    clip = (gain * speechlike(6.0, 150)).astype(np.float32)
    level = levelled(clip, -27.0)
    assert level.dtype == np.float32
    assert pyloudnorm.Meter(24_000).integrated_loudness(level) == pytest.approx(-27.0, abs=0.05)
    silent = np.zeros(24_000 * 6, np.float32)
    assert levelled(silent, -27.0) is silent


def test_a_clip_is_one_voice(encoder: VoiceEncoder) -> None:
    clip = speechlike(3.5, 120).astype(np.float32)
    voice = encoder.encode(clip, "Anna")
    pcm = (clip * 32767).round().astype("<i2").tobytes()
    assert voice.id == "voice_" + hashlib.sha256(pcm + b"\0dummy:tiny").hexdigest()[:16]
    assert encoder.encode(clip, "Bert").id == voice.id
    other = encoder.encode(speechlike(3.5, 220).astype(np.float32), "Anna")
    assert other.id != voice.id
    assert not torch.equal(other.t3_prompt, voice.t3_prompt)


def test_building_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    weights = RandomWeights(0)
    VoiceEncoder(SPEC, weights, weights)
    assert torch.equal(state, torch.random.get_rng_state())


def test_weights_that_do_not_fit_are_refused(encoder: VoiceEncoder) -> None:
    speaker = StateDictWeights(encoder.speaker.state_dict(), "ve.safetensors")
    state = encoder.reference.state_dict()
    computed = ("tokenizer._mel_filters", "tokenizer.window")
    without = {name: tensor for name, tensor in state.items() if name not in computed}
    VoiceEncoder(SPEC, speaker, StateDictWeights(without, "s3gen.safetensors"))  # as checkpoints may have it
    first = next(iter(without))
    with pytest.raises(ModelUnavailable, match=first):
        VoiceEncoder(SPEC, speaker, StateDictWeights({k: v for k, v in without.items() if k != first}, "s3gen"))
    with pytest.raises(ModelUnavailable, match="has shape"):
        VoiceEncoder(SPEC, speaker, StateDictWeights({**without, first: torch.zeros(1)}, "s3gen"))


def test_a_file_keeps_a_voice(tmp_path: Path) -> None:
    voice, path = made_up(), tmp_path / "voice.safetensors"
    voice.save(path)
    assert same(Voice.load(path), voice)
    assert same(Voice.from_bytes(voice.to_bytes()), voice)
    content = path.read_bytes()
    assert read_info(content[:HEADER_BYTES], len(content)) == voice.info
    assert [entry.name for entry in tmp_path.iterdir()] == ["voice.safetensors"]
    assert voice.for_t3().prompt is voice.t3_prompt
    assert voice.for_s3gen().feat is voice.s3gen_feat


def damaged(change: dict[str, torch.Tensor]) -> bytes:
    """The made-up voice's file with some of its tensors replaced."""
    voice = made_up()
    header = {"format": "chatterbox-voice-1", "id": voice.id, "name": "a", "created": "1", "model": "demo"}
    return save({name: getattr(voice, name) for name in TENSORS} | change, header)


BAD = {
    "empty": b"",
    "text": b"hello, this is not a voice file at all",
    "cut": made_up().to_bytes()[:-100],
    "cut in its header": made_up().to_bytes()[:50],
    "another safetensors file": save({"weight": torch.zeros(3)}, {"format": "pt"}),
    "no header": save({"speaker": torch.zeros(1, 256)}),
    "NaN": damaged({"speaker": torch.full((1, 256), torch.nan)}),
    "shape": damaged({"s3gen_feat": torch.zeros(1, 19, 80)}),
    "type": damaged({"speaker": torch.zeros(1, 256, dtype=torch.float64)}),
    "token": damaged({"t3_prompt": torch.full((1, 15), 6561)}),
    "no tokens": damaged({"s3gen_prompt": torch.zeros(1, 0, dtype=torch.int64), "s3gen_feat": torch.zeros(1, 0, 80)}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "voice.safetensors"
    path.write_bytes(BAD[kind])
    with pytest.raises(InvalidRequest, match="not a voice, or a damaged one") as caught:
        Voice.load(path)
    assert caught.value.param == "file"
    assert str(path) in str(caught.value)
    with pytest.raises(InvalidRequest):
        Voice.load(tmp_path / "none")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "voice.safetensors"
    made_up().save(path)
    before = path.read_bytes()
    broken: Any = made_up()
    object.__setattr__(broken, "speaker", None)
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever it is, nothing may be left behind
        broken.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["voice.safetensors"]


def test_the_built_in_voice_is_read_and_refused_if_damaged(tmp_path: Path) -> None:
    path = tmp_path / "conds.pt"
    voice = made_up()
    voice.to_conditionals().save(path)
    read = Voice.from_conditionals_file(path, model="demo")
    assert read.id == read.name == DEFAULT_VOICE
    assert all(torch.equal(getattr(read, name), getattr(voice, name)) for name in TENSORS)
    content = path.read_bytes()
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"t3": {}, "gen": {}}, tmp_path / "empty.pt")
    torch.save({"t3": Path("x")}, tmp_path / "unsafe.pt")
    wrong = ((tmp_path / name).read_bytes() for name in ("tensor.pt", "empty.pt", "unsafe.pt"))
    for bad in (b"", b"no pickle", content[: len(content) // 2], *wrong):
        path.write_bytes(bad)
        with pytest.raises(ModelUnavailable, match=r"conds\.pt is not a built-in voice"):
            Voice.from_conditionals_file(path, model="demo")
