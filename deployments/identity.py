"""What a replica says of itself."""

from dataclasses import dataclass

from chatterbox_engine.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica runs, and why: for the log, /health and /v1/models."""

    model: str
    spec: ModelSpec
    """Which settings and languages requests may name, and what else is told of the model."""
    device: str
    dtype: str
    why: str
