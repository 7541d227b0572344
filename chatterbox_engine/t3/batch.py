"""What a decode step reads and advances, on the device: the state of every slot, and which of them take part."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.alignment import AlignmentGuard
from chatterbox_engine.t3.sampling import Filters
from chatterbox_engine.types import SamplingParams


class Batch:
    """State by slot; a stream keeps its slot from its first token to its last. The last slot is nobody's: it fills up
    a step whose shape is larger than what runs.

    Tokens, steps and lengths advance on the device, so that a step can follow another without the host.
    """

    def __init__(
        self,
        spec: T3Spec,
        slots: int,
        scratch: int,
        follows: bool,
        decides: bool,
        device: torch.device,
        kernels: ctypes.CDLL | None = None,
    ) -> None:
        """`follows`: where attention stands in the text is looked at; `decides`: and the guard acts on it."""
        self.spec = spec
        self.device = device
        self.nobody = slots
        count = slots + 1
        self.tokens = torch.zeros(count, dtype=torch.int64, device=device)
        """The last token drawn."""
        self.steps = torch.zeros(count, dtype=torch.int64, device=device)
        """Tokens drawn so far."""
        self.lengths = torch.zeros(count, dtype=torch.int64, device=device)
        """Places of the KV cache that the stream's rows have filled."""
        self.lengths[self.nobody] = scratch
        self.seeds = torch.zeros(count, dtype=torch.int64, device=device)
        self.cfg_weight = torch.zeros(count, 1, device=device)
        self.seen = torch.zeros(count, spec.speech_vocab, dtype=torch.bool, device=device)
        """Tokens whose repetition costs."""
        self._no, self._yes = torch.tensor([False, True], device=device)
        self.filters = Filters(
            repetition_penalty=torch.ones(count, 1, device=device),
            temperature=torch.ones(count, 1, device=device),
            min_p=torch.zeros(count, 1, device=device),
            top_p=torch.ones(count, 1, dtype=torch.float64, device=device),
            top_k=torch.zeros(count, 1, dtype=torch.int64, device=device),
        )
        self.guard = AlignmentGuard(spec, count, device, kernels, decides=decides) if follows else None

    def join(
        self, slot: int, params: SamplingParams, prompt_length: int, text: tuple[int, int], spoken: Sequence[int] = ()
    ) -> None:
        """A stream takes a slot, before its first token is drawn; `text` is where its text begins, and its length;
        `spoken`: tokens of it that were drawn elsewhere."""
        drawn = (self.spec.start_speech, *spoken)
        self.tokens[slot] = drawn[-1]
        self.steps[slot] = len(spoken)
        self.lengths[slot] = prompt_length - 1
        self.seeds[slot] = params.seed
        self.cfg_weight[slot] = params.cfg_weight
        self.filters.repetition_penalty[slot] = params.repetition_penalty
        self.filters.temperature[slot] = params.temperature
        self.filters.min_p[slot] = params.min_p
        self.filters.top_p[slot] = params.top_p
        self.filters.top_k[slot] = params.top_k
        self.seen[slot] = False
        costly = spoken if spoken and self.spec.penalty_last else drawn  # see `advance`
        self.seen[slot, torch.tensor(costly, device=self.device)] = True
        if self.guard is not None:
            self.guard.join(slot, *text, drawn)

    def filters_of(self, slots: Tensor) -> Filters:
        """The columns of some slots."""
        own = self.filters
        return Filters(
            own.repetition_penalty[slots], own.temperature[slots], own.min_p[slots], own.top_p[slots], own.top_k[slots]
        )

    def advance(self, slots: Tensor, drawn: Tensor, first: bool) -> None:
        """Each slot has drawn a token. `first`: its first, after which the GPT-2s forget the start token."""
        if first and self.spec.penalty_last:
            self.seen[slots, self.spec.start_speech] = self._no
        self.seen[slots, drawn] = self._yes  # a Python bool would be copied from the host, which no graph can hold
        self.tokens[slots] = drawn
        one = (slots != self.nobody).long()
        self.steps[slots] += one
        self.lengths[slots] += one
