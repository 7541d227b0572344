"""Sampling: transformers' logits processors in the reference's order, and draws by seed and step."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatterbox_engine.t3.sampling import Filters, draw, draw_natively, draw_reference, guide, process

seeds = st.integers(0, 2**63 - 1)
requests = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "scale": st.sampled_from([0.0, 0.5, 3.0, 30.0]),
        "seen": st.lists(st.integers(0, 39), max_size=20),
        "penalty": st.floats(1.0, 10.0),
        "temperature": st.floats(0.05, 5.0),
        "min_p": st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
        "top_k": st.sampled_from([0, 1, 2, 7, 39, 1000]),
        "top_p": st.one_of(st.just(1.0), st.floats(0.01, 1.0), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 0.95])),
    }
)


def expected_probabilities(logits: Tensor, request: dict, turbo: bool) -> Tensor:
    """As T3.inference and T3.inference_turbo have it, one request at a time: logits (1, V) -> (1, V)."""
    ids = torch.tensor([[39, *request["seen"]]])
    processors = [
        RepetitionPenaltyLogitsProcessor(penalty=request["penalty"]),
        *([TemperatureLogitsWarper(request["temperature"])] if request["temperature"] != 1.0 else []),
        MinPLogitsWarper(min_p=request["min_p"]),
        TopPLogitsWarper(top_p=request["top_p"]),
    ]
    if turbo:
        cut = [TopKLogitsWarper(request["top_k"])] if request["top_k"] else []
        nucleus = [processors[-1]] if request["top_p"] < 1.0 else []
        processors = [*processors[1:-2], *cut, *nucleus, processors[0]]
    for processor in processors:
        logits = processor(ids, logits.clone())
    return torch.softmax(logits, dim=-1)


def column(requests: list[dict], name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[request[name]] for request in requests], dtype=dtype)


@example(
    given_requests=[{"seed": 1389, "scale": 30.0, "seen": [5], "penalty": 2.0, "temperature": 0.125, "min_p": 0.0,
                     "top_k": 0, "top_p": 1.0}],
    turbo=True, sort=True,
)  # fmt: skip
@given(given_requests=st.lists(requests, min_size=1, max_size=4), turbo=st.booleans(), sort=st.booleans())
@settings(max_examples=400)
def test_probabilities_equal_the_references_processors(given_requests: list[dict], turbo: bool, sort: bool) -> None:
    rows = []
    seen = torch.zeros(len(given_requests), 40, dtype=torch.bool)
    seen[:, 39] = True
    for row, request in enumerate(given_requests):
        generator = torch.Generator().manual_seed(request["seed"])
        rows.append(request["scale"] * torch.randn(40, generator=generator))
        seen[row, request["seen"]] = True
    logits = torch.stack(rows)
    expected = torch.cat([
        expected_probabilities(row[None], request, turbo) for row, request in zip(rows, given_requests, strict=True)
    ])  # fmt: skip
    if not turbo:
        given_requests = [{**request, "top_k": 0} for request in given_requests]
    needed = any(request["top_p"] < 1.0 or request["top_k"] > 0 for request in given_requests)
    filters = Filters(
        *(column(given_requests, name) for name in ("penalty", "temperature", "min_p")),
        top_p=column(given_requests, "top_p", torch.float64),
        top_k=column(given_requests, "top_k", torch.int64),
    )
    own = process(logits, seen, filters, sort=sort or needed, penalty_last=turbo)
    assert (own - expected).abs().max() <= 1e-6
    assert torch.equal(own == 0, expected == 0)


@given(weight=st.floats(0, 5), seed=st.integers(0, 2**31))
@settings(max_examples=50)
def test_guidance_is_the_references(weight: float, seed: int) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    cond, uncond = logits[0:1], logits[1:2]
    expected = cond + torch.as_tensor(weight, dtype=cond.dtype) * (cond - uncond)
    own = guide(logits, torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([[weight], [weight]]))
    assert torch.equal(own[:1], expected)
    assert torch.equal(own[1], logits[2])  # without CFG the two rows are one, and nothing is guided


@given(streams=st.lists(st.tuples(seeds, st.integers(0, 4096)), min_size=1, max_size=6), at=st.integers(0, 2**31))
@settings(max_examples=50)
def test_a_draw_depends_on_seed_and_step_alone(streams: list[tuple[int, int]], at: int) -> None:
    rows = torch.randn(len(streams), 300, generator=torch.Generator().manual_seed(at)).softmax(-1)
    own, steps = (torch.tensor(part) for part in zip(*streams, strict=True))
    together = draw(rows, own, steps)
    assert torch.equal(draw(rows, own, steps), together)
    assert torch.equal(draw(rows.flip(0), own.flip(0), steps.flip(0)).flip(0), together)
    alone = [draw(rows[i : i + 1], own[i : i + 1], steps[i : i + 1]) for i in range(len(streams))]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
def test_the_kernel_draws_the_same_tokens(kernels: Any, min_p: float, scale: float) -> None:
    """Thousands of them, from logits among which an alignment guard has forced some."""
    vocabulary, slots = 8194, 24
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        filters = Filters(
            repetition_penalty=1 + 2 * torch.rand(slots, 1, generator=generator),
            temperature=0.05 + 2 * torch.rand(slots, 1, generator=generator),
            min_p=torch.full((slots, 1), min_p),
            top_p=torch.ones(slots, 1, dtype=torch.float64),
            top_k=torch.zeros(slots, 1, dtype=torch.int64),
        )
        seen = torch.rand(slots, vocabulary, generator=generator) < 0.05
        own = torch.randint(-(2**63), 2**63 - 1, (slots,), generator=generator)
        steps = torch.randint(0, 4096, (slots,), generator=generator)
        order = torch.randperm(slots, generator=generator)[:16]
        logits = scale * torch.randn(16, vocabulary, generator=generator)
        logits[0] = -(2.0**15)
        logits[:2, 6562] = 2.0**15
        logits[2, 6562] = -(2.0**15)
        columns = Filters(*(getattr(filters, field.name)[order] for field in fields(Filters)))
        probabilities = process(logits, seen[order], columns, sort=False, penalty_last=False)
        expected = draw(probabilities, own[order], steps[order])
        assert torch.equal(draw_natively(kernels, logits, order, seen, filters, own, steps), expected)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_draws_follow_the_probabilities(seed: int) -> None:
    """Over the steps of one seed, and over seeds at one step."""
    probabilities = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01, 0.0], dtype=torch.float64)
    count = 20_000
    rows = probabilities.expand(count, -1)
    own = torch.full((count,), seed)
    along = draw(rows, own, torch.arange(count))
    across = draw(rows, (seed >> 1) + torch.arange(count), torch.full((count,), 3))
    for tokens in (along, across):
        found = torch.bincount(tokens, minlength=7).double()
        assert found[6] == 0
        assert stats.chisquare(found[:6].numpy(), count * probabilities[:6].numpy()).pvalue > 1e-3
    pairs = 2 * (along[:-1] > 0) + (along[1:] > 0)  # a step tells nothing of the next
    table = torch.bincount(pairs, minlength=4).reshape(2, 2).numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-3


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=30)
def test_the_references_draw_has_a_generator_of_its_own(seed: int) -> None:
    probabilities = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)).softmax(-1)
    torch.manual_seed(seed)
    expected = [torch.multinomial(probabilities, num_samples=1)[:, 0] for _ in range(5)]
    state = torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(torch.cat([draw_reference(probabilities, generator) for _ in range(5)]), torch.cat(expected))
    assert torch.equal(state, torch.random.get_rng_state())
