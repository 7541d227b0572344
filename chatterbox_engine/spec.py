"""ModelSpec: a model's dimensions, read from a config file beside the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE, SamplingParams

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
    stop_at_first: bool = True
    """The first sampled token may be the stop; the GPT-2s' is not looked at."""
    cfg: bool = True
    """Classifier-free guidance: a second row without the text."""
    penalty_last: bool = False
    """The repetition penalty comes after the filters, and heeds the start token at the first step alone (turbo)."""
    aligned_heads: tuple[tuple[int, int], ...] = ()
    """(layer, head) whose attention follows the text; the alignment guard reads them."""
    alignment_guard: bool = False
    """The model is meant to run with the guard."""

    @property
    def most_tokens(self) -> int:
        """Speech tokens that have positions; one more would be read from behind the table's end."""
        return self.max_speech_tokens if self.learned_positions else self.gpt2_positions

    def check(self, params: SamplingParams) -> None:
        """Raises InvalidRequest where more tokens are asked for than there are positions."""
        if params.max_new_tokens > self.most_tokens:
            raise InvalidRequest(
                f"This model says at most {self.most_tokens} tokens in one go ({TOKEN_RATE} are a second).",
                "max_new_tokens",
            )

    @property
    def positions(self) -> int:
        """Room for a voice, a long piece of text and 1,000 speech tokens (40 s), in whole blocks of 64."""
        voice = 1 + (self.perceiver_queries or self.prompt_tokens)
        return -(-(voice + 350 + 1000) // 64) * 64


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

    @property
    def layers(self) -> int:
        """Transformer blocks in all."""
        return (2 + self.mid_stages) * self.stage_blocks


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


class VocosSpec(_Spec):
    """The Vocos vocoder: ConvNeXt blocks at the mel's rate, and an ISTFT of `n_fft` samples every `hop`."""

    width: int = 512
    mlp_width: int = 1536
    layers: int = 8
    n_fft: int = 1920
    """A whole number of hops."""
    hop: int = 480
    ahead: int = Field(1, ge=0, le=3)
    """Frames that a block's convolution, of 7, sees after its own. The package `vocos` has 3."""


class S3GenSpec(_Spec):
    """Dimensions of S3Gen: flow matching (tokens -> mel) and a vocoder (mel -> waveform)."""

    token_vocab: int = 6561
    mel_bins: int = 80
    speaker_width: int = 192
    encoder: EncoderSpec = EncoderSpec()
    estimator: EstimatorSpec = EstimatorSpec()
    cfm_steps: int = 10
    cfg_rate: float = 0.7
    """Guidance of the flow; without effect on a mean-flow model."""
    meanflow: bool = False
    """The flow is distilled to a few even steps without guidance, and knows both ends of a step."""
    chunked: bool = False
    """The flow was also trained to speak chunk by chunk, each attending to itself and to those before it."""
    opening_tokens: tuple[int, ...] = ()
    """Speech tokens put before those of each piece of text, so that the fade at its start takes none of its sound."""
    closing_tokens: tuple[int, ...] = ()
    """Speech tokens put after those of each piece of text."""
    crop_last_token: bool = False
    """The audio of a piece's last token (40 ms), where it has more than one, is noise and is left out."""
    hift: HiFTSpec = HiFTSpec()
    vocos: VocosSpec = VocosSpec()
    """Of the Vocos that training makes for it, and that random weights have; a file of one says its own."""

    def second_bytes(self, steps: int | None, number: int) -> int:
        """What chunked attention keeps of a second of mel: the estimator's keys and values at each Euler step, in
        numbers of so many bytes. `steps` None: `cfm_steps`."""
        own, rows = self.estimator, 1 if self.meanflow else 2
        frame = 2 * (steps or self.cfm_steps) * own.layers * rows * own.heads * own.head_width * number
        return TOKEN_RATE * FRAMES_PER_TOKEN * frame


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
    t3_step_s: float = 0.0
    """A step of T3 takes so long at least, and a call of S3Gen: a device's time that takes none of the processor's."""
    s3gen_call_s: float = 0.0


class ClipSpec(_Spec):
    """What a voice's clip must be, and how much of it each stage hears."""

    min_s: float = 3.0
    max_s: float = 30.0
    t3_s: float = 6.0
    """Seconds of which the speech tokens condition T3."""
    s3gen_s: float = 10.0
    loudness_lufs: float | None = None
    """Loudness (ITU-R BS.1770-4) that the clip is brought to first. None: it stays as it is."""


class FilesSpec(_Spec):
    """The files of a checkpoint by name. What is called .pt may also be there as .safetensors."""

    t3: str = "t3_cfg.safetensors"
    s3gen: str = "s3gen.safetensors"
    voice_encoder: str = "ve.safetensors"
    tokenizer: str = "tokenizer.json"
    voice: str = "conds.pt"
    """The built-in voice; need not be there."""
    vocos: str = "vocos.safetensors"
    """Another vocoder for its mels; need not be there."""
    cangjie: str | None = None
    """Which keys write a Chinese character; without it Chinese cannot be read."""


class ModelSpec(_Spec):
    """One model of the Chatterbox family."""

    name: str
    family: str = "chatterbox"
    """Says how text is normalised."""
    note: str = ""
    """What a user must know of this model; shown in /v1/models and in the log."""
    hub: str | None = None
    """Its repository."""
    files: FilesSpec = FilesSpec()
    tokenizer: Literal["graphemes", "phonemes", "gpt2"] = "graphemes"
    piece_characters: int | None = None
    """The longest text that T3 speaks well in one go. None: as many as suit the language."""
    cloning: bool = True
    """Clips become voices; without, there are the built-in voice and no encoders."""
    languages: tuple[str, ...] = ("en",)
    """Codes of ISO 639-1; a model of several takes the language's tag before the text."""
    language: str = "en"
    """What is spoken where a request names no language."""
    sampling: SamplingParams = SamplingParams()
    """The family's defaults. A filter that is off here is one the family does not have (`lacking`)."""
    clip: ClipSpec = ClipSpec()
    t3: T3Spec = T3Spec()
    s3gen: S3GenSpec = S3GenSpec()
    speech_tokenizer: SpeechTokenizerSpec = SpeechTokenizerSpec()
    random_weights: RandomWeights | None = None

    @classmethod
    def load(cls, path: Path) -> "ModelSpec":
        """Read a config file. Raises pydantic.ValidationError where it does not fit, OSError where it is absent."""
        return cls.model_validate(json.loads(path.read_text()))

    @property
    def lacking(self) -> tuple[str, ...]:
        """Settings of SamplingParams that this model cannot heed."""
        has = {
            "cfg_weight": self.t3.cfg,
            "exaggeration": self.t3.emotion,
            "min_p": self.sampling.min_p > 0,
            "top_k": self.sampling.top_k > 0,
        }
        return tuple(name for name, there in has.items() if not there)

    @property
    def defaults(self) -> dict[str, float]:
        """The settings that a request may change, but for the seed, and what they are where it does not."""
        return self._sampling().model_dump(exclude={"seed", *self.lacking})

    def sampling_for(self, given: Mapping[str, object]) -> SamplingParams:
        """A caller's settings by name over the family's defaults; None is the default.

        Raises InvalidRequest, with the setting's name, for what is out of range, and for a setting that the model lacks
        unless it is 0, or for more tokens than it can say in one go.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        for name in self.lacking:
            if chosen.pop(name, 0) != 0:
                raise InvalidRequest(f"{self.name} has no {name}. It has {', '.join(self.defaults)}.", name)
        params = SamplingParams.checked({**self._sampling().model_dump(), **chosen})
        self.t3.check(params)
        return params

    def _sampling(self) -> SamplingParams:
        """The family's, with no more tokens than this model has positions for."""
        most = min(self.sampling.max_new_tokens, self.t3.most_tokens)
        return self.sampling.model_copy(update={"max_new_tokens": most})

    def language_for(self, given: str | None, param: str = "language") -> str:
        """A caller's language in lower case; None is the model's default. Raises InvalidRequest for any other."""
        language = self.language if given is None else given.lower()
        if language not in self.languages:
            raise InvalidRequest(f"{self.name} does not speak {given!r}. It speaks {', '.join(self.languages)}.", param)
        return language
