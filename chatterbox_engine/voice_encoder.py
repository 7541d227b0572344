"""Reference clip -> voice, by chatterbox-tts's own encoders, without the rest of its model."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chatterbox_engine.clip import levelled
from chatterbox_engine.parts import parts_of
from chatterbox_engine.spec import ModelSpec, SpeechTokenizerSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN, SAMPLE_RATE
from chatterbox_engine.voice import Voice, voice_id
from chatterbox_engine.weights import Weights

_ENCODERS_RATE = 16_000
"""Samples a second that chatterbox's encoders hear."""


class VoiceEncoder:
    """Chatterbox's speaker encoder, speech tokenizer and CAM++, on the CPU. Its methods belong to one thread.

    Takes the tensors of `ve.safetensors`, and of `s3gen.safetensors` those named tokenizer.* and speaker_encoder.*. The
    first one built imports them, and SciPy with them, which takes some seconds.

    Raises ModelUnavailable where a tensor is missing or has another shape.
    """

    def __init__(self, spec: ModelSpec, ve: Weights, s3gen: Weights) -> None:
        speaker = _chatterbox("voice_encoder").VoiceEncoder
        self._spec = spec
        with torch.random.fork_rng(devices=[]):  # modules draw weights as they are built
            self.speaker = _filled(speaker(), ve)
            self.reference = _filled(ReferenceEncoder(spec.speech_tokenizer), s3gen)

    def encode(self, clip: np.ndarray, name: str, *, norm_loudness: bool = True) -> Voice:
        """The voice of a clip (n,) float32 at 24 kHz: the numbers of the family's own `prepare_conditionals`.

        The spec's ClipSpec says how much of it conditions T3's prompt and S3Gen, and to what loudness it is brought
        first, unless `norm_loudness` is False; the whole of it gives T3's speaker embedding. The id is made of the
        samples heard, in 16 bits, and the model's name, so that one clip is one voice.
        """
        import librosa

        rules = self._spec.clip
        if norm_loudness and rules.loudness_lufs is not None:
            clip = levelled(clip, rules.loudness_lufs)
        clip_16k = librosa.resample(clip, orig_sr=SAMPLE_RATE, target_sr=_ENCODERS_RATE)
        with torch.inference_mode():
            gen = self.reference.embed(clip[: round(rules.s3gen_s * SAMPLE_RATE)])
            heard = clip_16k[: round(rules.t3_s * _ENCODERS_RATE)]
            prompt, _ = self.reference.tokenizer([heard], max_len=self._spec.t3.prompt_tokens)
            speaker = torch.from_numpy(self.speaker.embeds_from_wavs([clip_16k], sample_rate=_ENCODERS_RATE))
        t3 = {"speaker_emb": speaker.mean(dim=0, keepdim=True), "cond_prompt_speech_tokens": torch.atleast_2d(prompt)}
        pcm = (np.clip(clip, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
        return Voice.from_parts(t3, gen, name=name, model=self._spec.name, id=voice_id(pcm, self._spec.name))


def _filled(module: Any, weights: Weights) -> Any:
    """The module with its tensors read by name, but for those that are computed or count training steps."""
    own = ("_mel_filters", "window", "num_batches_tracked")
    state = {
        name: tensor if name.endswith(own) else weights.take(name, tuple(tensor.shape))
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


class ReferenceEncoder(nn.Module):
    """What conditions S3Gen; its parts are named as in the checkpoint."""

    def __init__(self, spec: SpeechTokenizerSpec) -> None:
        super().__init__()
        self.tokenizer = _tokenizer(spec)
        self.speaker_encoder = _chatterbox("s3gen.xvector").CAMPPlus(memory_efficient=False)
        self._mel = _chatterbox("s3gen.utils.mel").mel_spectrogram

    def embed(self, clip: np.ndarray) -> dict[str, Tensor]:
        """Of a clip (n,) float32 at 24 kHz, as `S3Token2Mel.embed_ref`: its tokens (1, tokens), its mel (1, frames, 80)
        and its speaker (1, 192). Of the tokens, those that have two frames each."""
        from torchaudio.transforms import Resample

        samples = torch.from_numpy(clip)[None]
        heard = Resample(SAMPLE_RATE, _ENCODERS_RATE)(samples)
        tokens, _ = self.tokenizer(heard)
        feat = self._mel(samples).transpose(1, 2)
        return {
            "prompt_token": tokens[:, : feat.shape[1] // FRAMES_PER_TOKEN],
            "prompt_feat": feat,
            "embedding": self.speaker_encoder.inference(heard),
        }


def _tokenizer(spec: SpeechTokenizerSpec) -> nn.Module:
    """chatterbox's S3Tokenizer, whose own `__init__` takes a config and does not heed it."""
    import librosa

    s3tokenizer, model = _chatterbox("s3tokenizer.s3tokenizer"), import_module("s3tokenizer.model_v2")

    class SizedTokenizer(s3tokenizer.S3Tokenizer):  # type: ignore[name-defined]
        def __init__(self) -> None:
            config = model.ModelConfig(n_audio_state=spec.width, n_audio_head=spec.heads, n_audio_layer=spec.layers)
            model.S3TokenizerV2.__init__(self, "speech_tokenizer_v2_25hz", config)
            self.n_fft = 400
            filters = librosa.filters.mel(sr=_ENCODERS_RATE, n_fft=self.n_fft, n_mels=config.n_mels)
            self.register_buffer("_mel_filters", torch.from_numpy(filters).float())
            self.register_buffer("window", torch.hann_window(self.n_fft))

    return SizedTokenizer()


def _chatterbox(name: str) -> Any:
    """A module of `chatterbox.models`, without T3's Llama and the flow, whose imports take ten seconds and more."""
    with parts_of("chatterbox", "chatterbox.models", "chatterbox.models.s3gen"):
        return import_module(f"chatterbox.models.{name}")
