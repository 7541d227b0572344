"""What travels between the caller, T3 and S3Gen. All of it pickles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatterbox_engine.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE = 24_000
"""Samples a second of the audio made."""
TOKEN_RATE = 25
"""Speech tokens a second."""
FRAMES_PER_TOKEN = 2
"""Mel frames that one speech token becomes."""
SAMPLES_PER_FRAME = 480
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * SAMPLES_PER_FRAME
VALID_TOKENS = 6561
"""Speech tokens below this carry sound; those from it upwards are marks and are dropped."""
DEFAULT_VOICE = "default"
"""Id and name of a checkpoint's built-in voice."""

Temperature = Annotated[float, Field(ge=0.05, le=5.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveProbability = Annotated[float, Field(gt=0.0, le=1.0)]
TopK = Annotated[int, Field(ge=0, le=100_000)]
RepetitionPenalty = Annotated[float, Field(ge=1.0, le=10.0)]
CFGWeight = Annotated[float, Field(ge=0.0, le=5.0)]
Exaggeration = Annotated[float, Field(ge=0.0, le=2.0)]
NewTokens = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class SamplingParams(BaseModel):
    """How T3 samples one request. Defaults are those of `ChatterboxTTS.generate`; a model's own are in its spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: Temperature = 0.8
    min_p: Probability = 0.05
    top_p: PositiveProbability = 1.0
    top_k: TopK = 0
    """The likeliest tokens that are drawn from; 0: all."""
    repetition_penalty: RepetitionPenalty = 1.2
    cfg_weight: CFGWeight = 0.5
    exaggeration: Exaggeration = 0.5
    max_new_tokens: NewTokens = 1000
    seed: Seed = 0

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> "SamplingParams":
        """From a caller's own values. Raises InvalidRequest naming the first that is out of range."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidRequest.of(error) from error


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One utterance (at the S3Gen replica) or one piece of it (at the T3 replica)."""

    text: str
    voice: str
    """A voice's id."""
    sampling: SamplingParams
    language: str = "en"
    """One of the model's own."""
    speed: float = 1.0
    """At which its listener plays it: how fast a second of it is gone."""
    paced: bool = True
    """Somebody listens in real time. Else it is made as fast as can be beside those who do."""
    goes_on: bool = False
    """Its listener has heard what came before, and is not turned away amid it."""
    traceparent: str | None = None
    """W3C's name of the span that it is part of, where spans are kept."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word as the model read it, and the sample of its utterance at which it begins; it ends where the next one
    begins."""

    text: str
    sample: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A word that is being spoken from a speech token of its piece of text on."""

    text: str
    token: int
    """That token's number."""


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Speech tokens below VALID_TOKENS, in the order spoken."""

    tokens: tuple[int, ...]
    final: bool
    words: tuple[Begun, ...] = ()
    """Those that begin with these tokens, where that is known."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an utterance stands: what another S3Gen takes to go on with it, chunk for chunk as it was begun."""

    piece: int
    """Number of the piece of text that is being heard."""
    begin: int
    """Sample of the utterance at which that begins."""
    chunks: int
    """Chunks of the pieces before it."""
    ends: tuple[int, ...] = ()
    """Its tokens at which chunks of it have ended."""
    tokens: tuple[int, ...] = ()
    """What T3 has said of it."""
    complete: bool = False
    """T3 has said all of it."""
    words: tuple[Begun, ...] = ()
    """Those that T3 named in it."""
    told: int = 0
    """Words that the listener was told from its begin on."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An utterance that ended before its end."""

    progress: Progress
    samples: int
    """Samples that its listener has."""
    slack_s: float
    """Seconds until they are played; below 0: since then."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Mono float32 samples in [-1, 1] at SAMPLE_RATE."""

    samples: np.ndarray
    final: bool
    words: tuple[SpokenWord, ...] = ()
    """Those that begin within them or soon after, where that is known."""
    progress: Progress | None = None
    """Where the utterance stands after them, before its end."""


@dataclass(frozen=True, slots=True)
class T3Voice:
    """What T3 takes from a voice: speaker (1, 256) float32 and speech prompt (1, P) int64. `id` names its content."""

    id: str
    speaker: "Tensor"
    prompt: "Tensor"


@dataclass(frozen=True, slots=True)
class S3GenVoice:
    """What S3Gen takes from a voice: prompt tokens (1, N) int64, their mel (1, 2N, 80), speaker (1, 192) float32."""

    id: str
    prompt: "Tensor"
    feat: "Tensor"
    speaker: "Tensor"

    def of(self, tokens: int) -> "S3GenVoice":
        """The voice with no more than its prompt's first so many tokens."""
        feat = self.feat[:, : FRAMES_PER_TOKEN * tokens]
        return S3GenVoice(self.id, self.prompt[:, :tokens], feat, self.speaker)
