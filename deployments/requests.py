"""What clients send, validated at the edge."""

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from chatterbox_engine.types import SamplingParams

_Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class SpeechBody(BaseModel):
    """POST /v1/audio/speech: the OpenAI speech API's fields, and Chatterbox's own."""

    model_config = ConfigDict(extra="forbid")

    input: str = Field(description="The text to speak.")
    model: str | None = Field(None, description="A model of GET /v1/models, or one of OpenAI's names.")
    voice: str = Field("default", min_length=1, max_length=64, description="A voice's name or id.")
    response_format: Literal["wav", "pcm"] = "wav"
    speed: _Number = Field(1.0, ge=1.0, le=1.0, description="Only 1 for now.")
    stream_format: Literal["audio"] = "audio"
    instructions: str | None = Field(None, description="Accepted and ignored: Chatterbox takes no instructions.")
    language: Literal["en"] = "en"
    exaggeration: _Number = Field(0.5, ge=0.0, le=2.0)
    cfg_weight: _Number = Field(0.5, ge=0.0, le=5.0)
    temperature: _Number = Field(0.8, ge=0.05, le=5.0)
    min_p: _Number = Field(0.05, ge=0.0, le=1.0)
    top_p: _Number = Field(1.0, gt=0.0, le=1.0)
    repetition_penalty: _Number = Field(1.2, ge=1.0, le=10.0)
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        None, description="The same seed gives the same audio; by default a new one, told in the header x-seed."
    )

    def sampling(self) -> SamplingParams:
        """With a fresh seed where none was given."""
        own = self.model_dump(include=set(SamplingParams.model_fields) - {"seed"})
        return SamplingParams(**own, seed=secrets.randbits(31) if self.seed is None else self.seed)
