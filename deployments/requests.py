"""What clients send, validated at the edge."""

import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from chatterbox_engine.spec import ModelSpec
from chatterbox_engine.types import (
    CFGWeight,
    Exaggeration,
    NewTokens,
    PositiveProbability,
    Probability,
    RepetitionPenalty,
    SamplingParams,
    Seed,
    Temperature,
    TopK,
)
from deployments.book import BookFormat
from deployments.encoding import Format


class Spoken(BaseModel):
    """What every request to speak may say: the voice, and the fields of `SamplingParams`.

    None is the default of the model that is served; GET /v1/models tells it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    input: str = Field(description="The text to speak.", json_schema_extra={"minLength": 1})
    model: str | None = Field(None, description="A model of GET /v1/models, or one of OpenAI's names.")
    voice: str = Field("default", min_length=1, max_length=64, description="A voice's name or id.")
    language: str | None = Field(None, description="One of the model's languages, such as en.")
    temperature: Temperature | None = None
    min_p: Probability | None = None
    top_p: PositiveProbability | None = None
    top_k: TopK | None = None
    repetition_penalty: RepetitionPenalty | None = None
    cfg_weight: CFGWeight | None = None
    exaggeration: Exaggeration | None = None
    max_new_tokens: NewTokens | None = None
    seed: Seed | None = Field(
        None, description="The same seed gives the same audio; by default a new one, told in the header x-seed."
    )

    def sampling(self, spec: ModelSpec) -> SamplingParams:
        """Over the model's defaults, with a fresh seed where none was given. Raises InvalidRequest."""
        seed = secrets.randbits(31) if self.seed is None else self.seed
        given = self.model_dump(include=set(SamplingParams.model_fields))
        return spec.sampling_for({**given, "seed": seed})


class SpeechBody(Spoken):
    """POST /v1/audio/speech: the OpenAI speech API's fields, and beside them those of `SamplingParams`."""

    response_format: Format = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0, description="Faster or slower, at the same pitch.")
    stream_format: Literal["audio", "sse"] = Field("audio", description="sse: OpenAI's speech.audio events.")
    stream: bool = Field(
        True,
        description="False: one file when all is spoken, which tells its length; those who listen live come first.",
    )
    word_timings: bool = Field(False, description="With sse: an event for each word, where the model knows them.")
    instructions: str | None = Field(None, description="Accepted and ignored: Chatterbox takes no instructions.")


class JobBody(Spoken):
    """POST /v1/audio/jobs: a long text."""

    input: str = Field(
        description="The text; its Markdown headings (# One) begin chapters.", json_schema_extra={"minLength": 1}
    )
    title: str = Field("Untitled", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    response_format: BookFormat = Field("m4b", description="Of the file; m4b, mp3 and opus have its chapters in it.")


class VoiceChange(BaseModel):
    """PATCH /v1/voices/{voice_id}; what is not given stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=64)
    description: str | None = Field(None, max_length=500)
