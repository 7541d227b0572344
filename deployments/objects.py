"""What answers hold, as the OpenAPI document and the clients generated from it have it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from chatterbox_engine.spec import ClipSpec
from deployments.book import BookFormat


class Stage(BaseModel):
    """What a stage runs."""

    model: str
    note: str | None = Field(description="What to know of the model.")
    device: str
    dtype: str
    why: str = Field(description="Why that device.")


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    family: str
    note: str | None
    languages: list[str]
    language: str | None = Field(description="Taken where a request names none.")
    defaults: dict[str, Any] = Field(description="Of requests' settings.")
    lacking: list[str] = Field(description="Settings that the model does not have.")
    clip: ClipSpec
    stages: dict[str, Stage]


class Models(BaseModel):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[Model]


class VoiceObject(BaseModel):
    """A voice."""

    id: str
    object: Literal["voice"]
    name: str
    created: int = Field(description="Seconds since 1970.")
    builtin: bool
    private: bool = Field(description="This key's alone.")
    description: str = ""
    consent: bool = Field(False, description="Whoever added it said that the speaker agreed.")


class VoiceList(BaseModel):
    """GET /v1/voices."""

    object: Literal["list"]
    data: list[VoiceObject]


class Chapter(BaseModel):
    """A chapter of a job's file, in seconds."""

    title: str
    start: float
    end: float


class JobObject(BaseModel):
    """A long text that is spoken."""

    id: str
    object: Literal["audio.job"]
    title: str
    created: int = Field(description="Seconds since 1970.")
    status: Literal["queued", "running", "paused", "done", "failed", "cancelled"]
    error: str | None
    response_format: BookFormat
    pieces: int
    pieces_done: int
    characters: int
    seconds: float = Field(description="Of audio so far.")
    seconds_left: float | None = Field(description="Until it is done, as it has gone so far.")
    chapters: list[Chapter] | None = None


class JobList(BaseModel):
    """GET /v1/audio/jobs."""

    object: Literal["list"]
    data: list[JobObject]


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: str
    deleted: Literal[True]


class Health(BaseModel):
    """GET /health."""

    status: Literal["ok", "starting"]
    live: dict[str, Any] | None = Field(None, description="Streams at each stage.")
    stages: dict[str, Stage]
