"""From logits to the next speech token, for many requests at once.

Order as in the reference: classifier-free guidance, repetition penalty, temperature, min-p, top-p, softmax, draw.
"""

import torch
from torch import Tensor

from chatterbox_engine.accel.noise import Domain, exponential


def guide(logits: Tensor, conditioned: Tensor, unconditioned: Tensor, weight: Tensor) -> Tensor:
    """Classifier-free guidance (2207.12598): cond + w (cond - uncond).

    logits (R, V); rows of the two halves (S,) int64, the same row twice where a request has no CFG; weight (S, 1).
    """
    own = logits[conditioned]
    return own + weight * (own - logits[unconditioned])


def process(
    logits: Tensor,
    seen: Tensor,
    repetition_penalty: Tensor,
    temperature: Tensor,
    min_p: Tensor,
    top_p: Tensor | None,
) -> Tensor:
    """Probabilities to draw from: logits (S, V), seen (S, V) bool, the rest (S, 1) -> (S, V).

    Repetition penalty as in CTRL (1909.05858), min-p as in 2407.01082, top-p as in 1904.09751; `top_p` None where
    every request has 1, which saves the sort; else in float64, so that 1 - top_p rounds as it does in the reference.
    """
    penalised = torch.where(logits < 0, logits * repetition_penalty, logits / repetition_penalty)
    logits = torch.where(seen, penalised, logits) / temperature
    probabilities = logits.softmax(-1)
    floor = min_p * probabilities.amax(-1, keepdim=True)
    logits = logits.masked_fill(probabilities < floor, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(-1)
        drop = ordered.softmax(-1).cumsum(-1) <= (1 - top_p).to(ordered.dtype)
        drop[..., -1] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits.softmax(-1)


def draw(probabilities: Tensor, seeds: Tensor, steps: Tensor) -> Tensor:
    """Sample (S,) tokens from probabilities (S, V): argmax(p / Exp(1)), the noise a function of (seed, step) alone.

    seeds, steps (S,) int64. The exponential-race form of categorical sampling, as torch.multinomial uses it.
    """
    vocabulary = probabilities.shape[-1]
    places = steps[:, None] * vocabulary + torch.arange(vocabulary, device=steps.device)
    return (probabilities / exponential(seeds, Domain.SAMPLING, places)).argmax(-1)


def draw_reference(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Sample (1,) token from (1, V) as the reference does after `torch.manual_seed`, with a generator of its own."""
    return torch.multinomial(probabilities, num_samples=1, generator=generator)[:, 0]
