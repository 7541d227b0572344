"""EngineConfig: every choice of the engine is a named switch here, and profiles name sets of them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from chatterbox_engine.errors import InvalidRequest

Precision = Literal["auto", "fp32", "bf16"]


class _Switches(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class T3Switches(_Switches):
    """Text -> speech tokens."""

    precision: Precision = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU."""
    max_streams: int = Field(8, ge=1, le=1024)
    """Requests decoded at the same time; each has one row of the KV cache, or two with CFG."""
    max_positions: int = Field(1408, ge=64, le=8192)
    """Positions of a row: conditioning, text and speech tokens together."""
    prefill_positions: int = Field(64, ge=8)
    """Positions (rows x tokens) prefilled in one step beside running streams, so that they do not stall."""
    exact: bool = False
    """Compute each stream at the reference's own shapes and sample as the reference does."""
    queue_tokens: int = Field(1000, ge=1)
    """A stream whose reader is this many tokens behind is not decoded until it reads."""


class S3GenSwitches(_Switches):
    """Speech tokens -> waveform."""

    precision: Precision = "auto"
    """auto: fp32. HiFT's F0 and source are fp32 or better whatever this says."""
    f0_precision: Literal["fp32", "fp64"] = "fp64"
    """fp32 is the reference's own; fp64 keeps a streamed utterance on its offline pass however long it is."""
    max_streams: int = Field(16, ge=1, le=4096)
    max_batch: int = Field(8, ge=1, le=256)
    """Streams in one call of the flow or of HiFT."""
    chunk_schedule: tuple[PositiveInt, ...] = Field((20, 25, 50, 100), min_length=1)
    """Tokens of the 1st, 2nd, ... chunk; the last entry repeats."""
    context_window: int | None = Field(None, ge=0)
    """Earlier tokens that the flow sees again with each chunk. None: all of them."""
    cfm_steps: int | None = Field(None, ge=1, le=100)
    """Euler steps. None: the model's own number."""
    max_lead_s: float = Field(30.0, gt=0)
    """A stream this far ahead of its listener's playback waits."""
    queue_chunks: int = Field(8, ge=1)
    """A stream with this many unread audio chunks waits."""


class EngineConfig(_Switches):
    """The one configuration of the engine, built once and passed whole.

    Raises (in `profile`):
        InvalidRequest: an unknown profile or switch, or a value out of range.
    """

    t3: T3Switches = T3Switches()
    s3gen: S3GenSwitches = S3GenSwitches()
    watermark: bool = True
    """Perth's watermark on every stream."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch in this process. None: torch's own choice."""

    @classmethod
    def profile(cls, name: str = "balanced", /, **switches: Any) -> "EngineConfig":
        """The named set of switches, with some of them changed: `profile("reference", watermark=False)`.

        A stage's switches are given as a dictionary (`t3={"max_streams": 4}`) and change only what they name.
        """
        if name not in _PROFILES:
            raise InvalidRequest(f"There is no profile {name!r}. Profiles: {', '.join(_PROFILES)}.", "profile")
        merged: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in _PROFILES[name].items()}
        for key, value in switches.items():
            if isinstance(value, BaseModel):
                value = value.model_dump(exclude_unset=True)
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise InvalidRequest.of(error) from error


_PROFILES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "reference": {"t3": {"precision": "fp32", "exact": True}, "s3gen": {"precision": "fp32", "f0_precision": "fp32"}},
}
