"""From logits to the next speech token, for many requests at once.

Order as in the reference: classifier-free guidance, then for the Llamas repetition penalty, temperature, min-p, top-p;
for the GPT-2s temperature, top-k, top-p, repetition penalty; then softmax and draw.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from chatterbox_engine.accel.native import pointer
from chatterbox_engine.accel.noise import Domain, exponential


@dataclass(frozen=True, slots=True)
class Filters:
    """How each of S requests is sampled, a column (S, 1) each: fp32, but top_p in fp64 and top_k in int64."""

    repetition_penalty: Tensor
    temperature: Tensor
    min_p: Tensor
    top_p: Tensor
    top_k: Tensor


def guide(logits: Tensor, conditioned: Tensor, unconditioned: Tensor, weight: Tensor) -> Tensor:
    """Classifier-free guidance (2207.12598): cond + w (cond - uncond).

    logits (R, V); rows of the two halves (S,) int64, the same row twice where a request has no CFG; weight (S, 1).
    """
    own = logits[conditioned]
    return own + weight * (own - logits[unconditioned])


def process(logits: Tensor, seen: Tensor, filters: Filters, *, sort: bool, penalty_last: bool) -> Tensor:
    """Probabilities to draw from: logits (S, V), seen (S, V) bool -> (S, V).

    Repetition penalty as in CTRL (1909.05858), min-p as in 2407.01082, top-p as in 1904.09751, top-k as in 1805.04833.
    `sort` False where no request has top-p or top-k, which saves the sort. Top-p is compared in float64, so that
    1 - top_p rounds as it does in the reference.
    """
    if not penalty_last:
        logits = _penalised(logits, seen, filters)
    logits = logits / filters.temperature
    if not penalty_last:
        probabilities = logits.softmax(-1)
        floor = filters.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < floor, -torch.inf)
    if sort:
        vocabulary = logits.shape[-1]
        ordered, order = logits.sort(-1)
        keep = torch.where(filters.top_k > 0, filters.top_k.clamp(max=vocabulary), vocabulary)
        drop = ordered < ordered.gather(-1, vocabulary - keep)
        ordered = ordered.masked_fill(drop, -torch.inf)
        drop |= ordered.softmax(-1).cumsum(-1) <= (1 - filters.top_p).to(ordered.dtype)
        drop = drop & (filters.top_p < 1.0) | (ordered == -torch.inf)
        drop[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    if penalty_last:
        logits = _penalised(logits, seen, filters)
    return logits.softmax(-1)


def _penalised(logits: Tensor, seen: Tensor, filters: Filters) -> Tensor:
    penalty = filters.repetition_penalty
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def draw(probabilities: Tensor, seeds: Tensor, steps: Tensor) -> Tensor:
    """Sample (S,) tokens from probabilities (S, V): argmax(p / Exp(1)), the noise a function of (seed, step) alone.

    seeds, steps (S,) int64. The exponential-race form of categorical sampling, as torch.multinomial uses it.
    """
    vocabulary = probabilities.shape[-1]
    places = steps[:, None] * vocabulary + torch.arange(vocabulary, device=steps.device)
    return (probabilities / exponential(seeds, Domain.SAMPLING, places)).argmax(-1)


def draw_natively(
    kernels: ctypes.CDLL, logits: Tensor, slots: Tensor, seen: Tensor, filters: Filters, seeds: Tensor, steps: Tensor
) -> Tensor:
    """`process` and `draw` in one call of the CPU's own kernels, where nothing is sorted and the penalty comes first.

    logits (S, V), contiguous, are changed; the rest has a row for every slot, of which slots (S,) are meant. Its e^x
    is within 2e-7 of PyTorch's: the token (S,) is the same one unless two are as close as that.
    """
    drawn = torch.empty_like(slots)
    own = (filters.repetition_penalty, filters.temperature, filters.min_p, seeds, steps)
    tensors = (pointer(tensor) for tensor in (logits, slots, seen, *own, drawn))
    kernels.sample(*tensors, *map(ctypes.c_int64, logits.shape))
    return drawn


def draw_reference(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Sample (1,) token from (1, V) as the reference does after `torch.manual_seed`, with a generator of its own."""
    return torch.multinomial(probabilities, num_samples=1, generator=generator)[:, 0]
