"""Reference clip -> voice, by chatterbox-tts's own encoders, without the rest of its model."""

from typing import Any

import numpy as np
import torch
from torch import nn

from chatterbox_engine.clip import levelled
from chatterbox_engine.spec import ModelSpec, SpeechTokenizerSpec
from chatterbox_engine.types import SAMPLE_RATE
from chatterbox_engine.voice import Voice, voice_id
from chatterbox_engine.weights import Weights


class VoiceEncoder:
    """Chatterbox's speaker encoder, speech tokenizer and CAM++, on the CPU. Its methods belong to one thread.

    Takes the tensors of `ve.safetensors`, and of `s3gen.safetensors` those named tokenizer.* and speaker_encoder.*. The
    first one built imports chatterbox, which takes some ten seconds.

    Raises ModelUnavailable where a tensor is missing or has another shape.
    """

    def __init__(self, spec: ModelSpec, ve: Weights, s3gen: Weights) -> None:
        from chatterbox.models.voice_encoder import VoiceEncoder as SpeakerEncoder

        self._spec = spec
        with torch.random.fork_rng(devices=[]):  # modules draw weights as they are built
            self.speaker = _filled(SpeakerEncoder(), ve)
            self.reference = _filled(_reference_encoder(spec.speech_tokenizer), s3gen)

    def encode(self, clip: np.ndarray, name: str, *, norm_loudness: bool = True) -> Voice:
        """The voice of a clip (n,) float32 at 24 kHz: the numbers of the family's own `prepare_conditionals`.

        The spec's ClipSpec says how much of it conditions T3's prompt and S3Gen, and to what loudness it is brought
        first, unless `norm_loudness` is False; the whole of it gives T3's speaker embedding. The id is made of the
        samples heard, in 16 bits, and the model's name, so that one clip is one voice.
        """
        import librosa
        from chatterbox.models.s3tokenizer import S3_SR

        rules = self._spec.clip
        if norm_loudness and rules.loudness_lufs is not None:
            clip = levelled(clip, rules.loudness_lufs)
        clip_16k = librosa.resample(clip, orig_sr=SAMPLE_RATE, target_sr=S3_SR)
        with torch.inference_mode():
            gen = self.reference.embed_ref(clip[: round(rules.s3gen_s * SAMPLE_RATE)], SAMPLE_RATE)
            heard = clip_16k[: round(rules.t3_s * S3_SR)]
            prompt, _ = self.reference.tokenizer([heard], max_len=self._spec.t3.prompt_tokens)
            speaker = torch.from_numpy(self.speaker.embeds_from_wavs([clip_16k], sample_rate=S3_SR))
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


def _reference_encoder(spec: SpeechTokenizerSpec) -> Any:
    """chatterbox's S3Token2Mel with what its `embed_ref` needs, and no flow: a module named as in its checkpoint."""
    import librosa
    from chatterbox.models.s3gen.s3gen import S3Token2Mel
    from chatterbox.models.s3gen.utils.mel import mel_spectrogram
    from chatterbox.models.s3gen.xvector import CAMPPlus
    from chatterbox.models.s3tokenizer import S3_SR, S3Tokenizer
    from s3tokenizer.model_v2 import ModelConfig, S3TokenizerV2

    class SizedTokenizer(S3Tokenizer):
        """S3Tokenizer's own __init__ takes a config and does not heed it."""

        def __init__(self) -> None:
            config = ModelConfig(n_audio_state=spec.width, n_audio_head=spec.heads, n_audio_layer=spec.layers)
            S3TokenizerV2.__init__(self, "speech_tokenizer_v2_25hz", config)
            self.n_fft = 400
            filters = librosa.filters.mel(sr=S3_SR, n_fft=self.n_fft, n_mels=config.n_mels)
            self.register_buffer("_mel_filters", torch.from_numpy(filters).float())
            self.register_buffer("window", torch.hann_window(self.n_fft))

    class ReferenceEncoder(S3Token2Mel):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.tokenizer = SizedTokenizer()
            self.mel_extractor = mel_spectrogram
            self.speaker_encoder = CAMPPlus(memory_efficient=False)

        @property
        def dtype(self) -> torch.dtype:
            return torch.float32

    return ReferenceEncoder()
