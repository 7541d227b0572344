"""What clients send, validated at the edge."""

import secrets
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from chatterbox_engine.types import SamplingParams


class SpeechBody(SamplingParams):
    """POST /v1/audio/speech: the OpenAI speech API's fields, and beside them Chatterbox's own, `SamplingParams`."""

    model_config = ConfigDict(strict=True)

    input: str = Field(description="The text to speak.")
    model: str | None = Field(None, description="A model of GET /v1/models, or one of OpenAI's names.")
    voice: str = Field("default", min_length=1, max_length=64, description="A voice's name or id.")
    response_format: Literal["wav", "pcm"] = "wav"
    speed: float = Field(1.0, ge=1.0, le=1.0, description="Only 1 for now.")
    stream_format: Literal["audio"] = "audio"
    instructions: str | None = Field(None, description="Accepted and ignored: Chatterbox takes no instructions.")
    language: Literal["en"] = "en"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(  # type: ignore[assignment]
        None, description="The same seed gives the same audio; by default a new one, told in the header x-seed."
    )

    def sampling(self) -> SamplingParams:
        """With a fresh seed where none was given."""
        seed = secrets.randbits(31) if self.seed is None else self.seed
        return SamplingParams(**self.model_dump(include=set(SamplingParams.model_fields) - {"seed"}), seed=seed)
