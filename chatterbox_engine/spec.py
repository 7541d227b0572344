"""ModelSpec: a model's dimensions, read from a config file beside the weights."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

SPECS = Path(__file__).parent / "specs"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RopeSpec(_Spec):
    """Rotary embedding with Llama 3's frequency scaling (transformers' rope_type "llama3")."""

    theta: float = 500_000.0
    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


class T3Spec(_Spec):
    """Dimensions of T3: a transformer over conditioning, text and speech tokens."""

    backbone: Literal["llama", "gpt2"] = "llama"
    layers: int = 30
    width: int = 1024
    heads: int = 16
    head_width: int = 64
    mlp_width: int = 4096
    norm_eps: float = 1e-5
    rope: RopeSpec = RopeSpec()
    """Of the Llama; the GPT-2 has learned positions for its whole sequence."""
    gpt2_positions: int = 8196
    """Rows of the GPT-2's table of positions."""
    text_vocab: int = 704
    start_text: int | None = 255
    """None: the text stands without marks around it, as in turbo."""
    stop_text: int | None = 0
    speech_vocab: int = 8194
    start_speech: int = 6561
    stop_speech: int = 6562
    learned_positions: bool = True
    """Text and speech tokens have position embeddings of their own, each from 0."""
    max_text_tokens: int = 2048
    max_speech_tokens: int = 4096
    speaker_width: int = 256
    prompt_tokens: int = 150
    """Speech tokens of the reference clip that condition T3."""
    perceiver_queries: int = 32
    """Vectors that the prompt is resampled to; 0: the prompt itself conditions, token by token."""
    perceiver_heads: int = 4
    emotion: bool = True
    """One position of conditioning says how exaggerated to speak."""
    start_tokens: int = 2
    """How often the start token stands before the first sampled one."""
    cfg: bool = True
    """Classifier-free guidance: a second row without the text."""
    penalty_last: bool = False
    """The repetition penalty comes after the filters, and heeds the start token at the first step alone (turbo)."""
    aligned_heads: tuple[tuple[int, int], ...] = ()
    """(layer, head) whose attention follows the text; the alignment guard reads them."""
    alignment_guard: bool = False
    """The model is meant to run with the guard."""


class EncoderSpec(_Spec):
    """The flow's conformer encoder: token rate in, mel-frame rate out."""

    width: int = 512
    heads: int = 8
    mlp_width: int = 2048
    blocks: int = 6
    up_blocks: int = 4
    lookahead: int = 3


class EstimatorSpec(_Spec):
    """The flow's velocity estimator: 1 + mid_stages + 1 stages."""

    width: int = 256
    mid_stages: int = 12
    stage_blocks: int = 4
    """Transformer blocks of a stage."""
    heads: int = 8
    head_width: int = 64


class HiFTSpec(_Spec):
    """The HiFT vocoder: F0 predictor, harmonic source, upsampling network, ISTFT."""

    base_width: int = 512
    f0_width: int = 512
    harmonics: int = 8
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    """Dilations of every residual block, of the main path and of the source's."""
    source_kernels: tuple[int, ...] = (7, 7, 11)
    n_fft: int = 16
    hop: int = 4
    sine_amplitude: float = 0.1
    noise_std: float = 0.003
    voiced_threshold: float = 10.0
    """Hz"""
    slope: float = 0.1
    audio_limit: float = 0.99


class S3GenSpec(_Spec):
    """Dimensions of S3Gen: flow matching (tokens -> mel) and HiFT (mel -> waveform)."""

    token_vocab: int = 6561
    mel_bins: int = 80
    speaker_width: int = 192
    encoder: EncoderSpec = EncoderSpec()
    estimator: EstimatorSpec = EstimatorSpec()
    cfm_steps: int = 10
    cfg_rate: float = 0.7
    hift: HiFTSpec = HiFTSpec()


class SpeechTokenizerSpec(_Spec):
    """Dimensions of the S3 speech tokenizer, which voice encoding alone needs."""

    width: int = 1280
    heads: int = 20
    layers: int = 6


class RandomWeights(_Spec):
    """The weights are drawn from a seed instead of read from files."""

    seed: int = 0
    tokens_per_character: float = 1.7
    """Random weights almost never sample the stop token, so a text's length says how many tokens it gets."""
    prompt_tokens: int = 250
    """Speech tokens of the built-in voice's made-up clip."""


class ModelSpec(_Spec):
    """One model of the Chatterbox family."""

    name: str
    family: str = "chatterbox"
    note: str = ""
    """What a user must know of this model; shown in /v1/models and in the log."""
    t3: T3Spec = T3Spec()
    s3gen: S3GenSpec = S3GenSpec()
    speech_tokenizer: SpeechTokenizerSpec = SpeechTokenizerSpec()
    random_weights: RandomWeights | None = None

    @classmethod
    def load(cls, path: Path) -> "ModelSpec":
        """Read a config file. Raises pydantic.ValidationError where it does not fit, OSError where it is absent."""
        return cls.model_validate(json.loads(path.read_text()))
