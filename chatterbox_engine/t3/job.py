"""One request in T3's loop."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatterbox_engine.t3.scheduler import Sequence
from chatterbox_engine.t3.token_stream import TokenStream
from chatterbox_engine.types import SamplingParams, T3Voice


@dataclass(eq=False, slots=True)
class Job:
    """One request: its place in the scheduler, its outbox, and what sampling needs."""

    text: list[int]
    voice: T3Voice
    params: SamplingParams
    tokens_wanted: int | None
    """Valid tokens after which to stop, for weights that never sample the stop token."""
    sequence: Sequence
    stream: TokenStream
    spoken: tuple[int, ...]
    """Tokens that were drawn elsewhere."""
    generator: torch.Generator | None
    prompts: list[Tensor] = field(default_factory=list)
    """Embeddings (P, W) of each row."""
    drawn: int = 0
    """Tokens that have come back from the device."""
    valid: int = 0
    since: float | None = None
    """When its listener began to play it, by the monotonic clock; None before there is a second of it."""
    released: bool = False
    asked: float = field(default_factory=time.monotonic)
    """When it was."""

    @property
    def sort(self) -> bool:
        """Its filters need the logits in order."""
        return self.params.top_p < 1.0 or self.params.top_k > 0
