"""Positional noise: a function of seed, use and place, with the distributions it claims."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from chatterbox_engine.accel.noise import (
    Domain,
    exponential,
    normal,
    normals,
    normals_by,
    uniform,
)
from tests.interpreted import DEVICE, interpreted

KINDS: list[Callable[[Tensor, Domain, Tensor], Tensor]] = [uniform, exponential, normal]
seeds = st.integers(0, 2**63 - 1)
domains = st.sampled_from(Domain)


def draw(kind: Callable[[Tensor, Domain, Tensor], Tensor], seed: int, domain: Domain, start: int, count: int) -> Tensor:
    return kind(torch.tensor([seed]), domain, torch.arange(start, start + count)[None])[0]


@given(
    streams=st.lists(st.tuples(seeds, st.integers(0, 2**45)), min_size=1, max_size=5),
    cut=st.integers(0, 40),
    domain=domains,
)
@settings(max_examples=50)
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_depends_on_its_place_alone(
    kind: Callable[[Tensor, Domain, Tensor], Tensor], streams: list[tuple[int, int]], cut: int, domain: Domain
) -> None:
    rows = torch.tensor([seed for seed, _ in streams])
    places = torch.tensor([start for _, start in streams])[:, None] + torch.arange(40)
    batch = kind(rows, domain, places)
    assert torch.equal(kind(rows.flip(0), domain, places.flip(0)).flip(0), batch)
    assert torch.equal(torch.cat((kind(rows, domain, places[:, :cut]), kind(rows, domain, places[:, cut:])), 1), batch)
    for (seed, start), row in zip(streams, batch, strict=True):
        assert torch.equal(draw(kind, seed, domain, start, 40), row)


@given(seed=seeds, bit=st.integers(0, 62), domain=domains, start=st.integers(0, 2**45))
@settings(max_examples=100)
def test_other_seeds_uses_and_places_give_other_numbers(seed: int, bit: int, domain: Domain, start: int) -> None:
    one = draw(uniform, seed, domain, start, 64)
    others = [
        draw(uniform, seed ^ (1 << bit), domain, start, 64),
        draw(uniform, seed, domain, start + 64, 64),
        draw(uniform, seed, domain, start ^ (1 << 45), 64),
        *(draw(uniform, seed, other, start, 64) for other in Domain if other is not domain),
    ]
    for other in others:
        assert not torch.isin(one, other).any()


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
@pytest.mark.parametrize(
    ("kind", "expected", "mean", "std"),
    [
        (uniform, stats.uniform, 0.5, math.sqrt(1 / 12)),
        (exponential, stats.expon, 1.0, 1.0),
        (normal, stats.norm, 0.0, 1.0),
    ],
)
def test_distributions(
    seed: int, kind: Callable[[Tensor, Domain, Tensor], Tensor], expected: stats.rv_continuous, mean: float, std: float
) -> None:
    """Over places of one seed, and over seeds at one place; the numbers are fixed, so the tests cannot flicker."""
    count = 100_000
    along = draw(kind, seed, Domain.FLOW, 0, count).double()
    across = kind(torch.arange(count) + (seed >> 1), Domain.FLOW, torch.full((count, 1), 7))[:, 0].double()
    for sample in (along, across):
        assert abs(sample.mean() - mean) < 4 * std / math.sqrt(count)
        assert abs(sample.std() / std - 1) < 0.02
        assert stats.kstest(sample.numpy(), expected.cdf).pvalue > 1e-3
        assert abs(torch.corrcoef(torch.stack((sample[1:], sample[:-1])))[0, 1]) < 4 / math.sqrt(count)
        assert sample.isfinite().all()


@given(
    streams=st.lists(st.tuples(seeds, st.integers(0, 2**45)), min_size=1, max_size=4),
    count=st.integers(0, 3000),
    cut=st.integers(0, 3000),
    domain=domains,
)
@settings(max_examples=30)
def test_a_run_has_the_numbers_of_its_places(
    streams: list[tuple[int, int]], count: int, cut: int, domain: Domain
) -> None:
    rows, starts = (torch.tensor(column) for column in zip(*streams, strict=True))
    made = normals(rows, domain, starts, count)
    expected = normal(rows, domain, starts[:, None] + torch.arange(count))
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-6)
    cut = min(cut, count)
    parts = normals(rows, domain, starts, cut), normals(rows, domain, starts + cut, count - cut)
    assert torch.equal(torch.cat(parts, dim=1), made)


@pytest.mark.parametrize("before", range(0, 33, 4))
def test_a_run_crosses_the_lower_half_of_its_places(before: int) -> None:
    start = torch.tensor([3 * 2**32 - before])
    made = normals(torch.tensor([7]), Domain.FLOW, start, 64)
    expected = normal(torch.tensor([7]), Domain.FLOW, start[:, None] + torch.arange(64))
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-6)


def test_neighbouring_seeds_and_lanes_are_uncorrelated() -> None:
    rows = uniform(torch.arange(8), Domain.SAMPLING, torch.arange(20_000).expand(8, -1))
    lanes = [uniform(torch.tensor([0]), Domain.SAMPLING, torch.arange(20_000)[None], lane) for lane in (0, 1)]
    table = torch.corrcoef(torch.cat((rows, lanes[1]))) - torch.eye(9)
    assert torch.equal(rows[:1], lanes[0])
    assert table.abs().max() < 5 / math.sqrt(20_000)


def test_the_numbers_never_change() -> None:
    """A seed gives the same audio from one version to the next: these are the hash's own values, computed by hand."""

    def mix(word: int) -> int:
        word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
        word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
        return word ^ (word >> 16)

    seed, place = 0x1234_5678_9ABC_DEF0, 3 * 2**32 + 5
    key = mix((0x9ABC_DEF0 + 0x9E3779B9 * (2 * Domain.SOURCE + 1)) % 2**32)
    key = mix(key ^ 0x1234_5678)
    word = mix((mix(5 ^ mix(key ^ 3)) + key) % 2**32)
    assert draw(uniform, seed, Domain.SOURCE, place, 1).item() == (word + 0.5) / 2**32


@given(
    streams=st.lists(st.tuples(seeds, st.integers(0, 2**45)), min_size=1, max_size=3),
    count=st.sampled_from((0, 1, 100, 1500)),
    domain=domains,
)
@settings(max_examples=20)
def test_a_gpus_kernel_makes_the_same_numbers(streams: list[tuple[int, int]], count: int, domain: Domain) -> None:
    own, starts = (torch.tensor([stream[which] for stream in streams], device=DEVICE) for which in (0, 1))
    with interpreted():
        from chatterbox_engine.accel import triton_noise

        made = normals_by(triton_noise, own, domain, starts, count)
    expected = normal(own, domain, starts[:, None] + torch.arange(count, device=DEVICE))
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
@settings(max_examples=20)
def test_a_gpus_logarithm_is_one_without_float64(drawn: list[int]) -> None:
    """To the last bits, also of words near both ends and around the middle, where its two ways meet."""
    ends = [0, 1, 2**23, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2**9, 2**32 - 2, 2**32 - 1]
    given_words = torch.tensor([*ends, *drawn], device=DEVICE)
    made = torch.empty(len(given_words), device=DEVICE)
    with interpreted():
        import triton
        import triton.language as tl

        from chatterbox_engine.accel.triton_noise import minus_log

        @triton.jit
        def logarithms(words, made, count, minus_log: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
            number = tl.arange(0, BLOCK)
            word = tl.load(words + number, mask=number < count, other=0).to(tl.uint32)
            tl.store(made + number, minus_log(word), mask=number < count)

        logarithms[(1,)](given_words, made, len(made), minus_log, BLOCK=128)
    expected = -torch.log((given_words.double() + 0.5) / 2**32)
    torch.testing.assert_close(made.double(), expected, rtol=3e-7, atol=0)
