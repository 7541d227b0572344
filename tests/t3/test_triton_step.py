"""The GPU's own decode step against the model's layers, by Triton's interpreter where no GPU is; that it compiles."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from chatterbox_engine.accel.noise import Domain, key_of
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3 import runner
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.sampling import Filters, draw, process
from chatterbox_engine.t3.triton_step import TritonStep
from chatterbox_engine.types import SamplingParams
from chatterbox_engine.weights import RandomWeights
from tests.interpreted import DEVICE, Kernel, compile_kernels, interpreted
from tests.rerun import Rerun
from tests.t3.test_captured import drawn, started
from tests.t3.test_native_step import GPT2, LLAMA

ROWS, PLACES = 4, 300
VOCABULARY = 8194
FEW = [(8, SamplingParams(seed=1, max_new_tokens=60)), (5, SamplingParams(seed=2, cfg_weight=0.0, max_new_tokens=60))]
"""Tokens wanted, and how: the interpreter takes its time."""


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    with interpreted():
        from chatterbox_engine.t3 import triton_kernels

        yield triton_kernels


def pair(spec: T3Spec, dtype: torch.dtype, kernels: ModuleType) -> tuple[T3Model, KVCache, TritonStep, KVCache]:
    """A model with a filled cache, and a step with a copy of it."""
    model = T3Model.from_weights(spec, RandomWeights(1), PLACES, dtype, torch.device("cpu"), "none", "plain")
    model.to(DEVICE)
    caches = [KVCache(spec, ROWS, PLACES, dtype, DEVICE) for _ in range(2)]
    filled = torch.randn(caches[0].store.shape, generator=torch.Generator().manual_seed(0))
    for cache in caches:
        cache.store.copy_(filled)
    return model, caches[0], TritonStep(model, caches[1], kernels), caches[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("first_row", [0, 1])
def test_a_step_is_that_of_the_layers(
    spec: T3Spec, dtype: torch.dtype, tolerance: float, first_row: int, kernels: ModuleType
) -> None:
    """Rows of any length; what they write; what is read of the heads that follow the text."""
    model, cache, step, own = pair(spec, dtype, kernels)
    rows = slice(first_row, ROWS)
    count = ROWS - first_row
    x = torch.randn(count, spec.width, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    positions = torch.tensor([5, 150, 0, 127][first_row:], device=DEVICE)
    length = 160
    mask = torch.arange(length, device=DEVICE) <= positions[:, None, None, None]
    aligned = bool(spec.aligned_heads)
    with torch.inference_mode():
        index = torch.arange(first_row, ROWS, device=DEVICE)
        expected, followed = model(
            x[:, None], positions[:, None], cache, index, rows, length, mask, causal=False, aligned=aligned
        )
        made, own_followed = step(model.placed(x, positions).clone(), positions, first_row, length, aligned)
    torch.testing.assert_close(made, expected[:, 0], atol=tolerance, rtol=0)
    torch.testing.assert_close(own.store, cache.store, atol=tolerance, rtol=0)
    if aligned:
        torch.testing.assert_close(own_followed, followed, atol=tolerance / 10, rtol=0)


def test_a_place_beyond_what_is_read_costs_nothing(kernels: ModuleType) -> None:
    """Rows of nobody stand at the cache's last place, whatever the step's length."""
    _, _, step, cache = pair(LLAMA, torch.float32, kernels)
    with torch.inference_mode():
        made, _ = step(torch.ones(1, LLAMA.width, device=DEVICE), torch.tensor([PLACES], device=DEVICE), 0, 64)
    assert made.isfinite().all()
    assert cache.store[0, 0, 0, :, PLACES].isfinite().all()


def test_it_draws_the_same_tokens(kernels: ModuleType) -> None:
    step = pair(LLAMA, torch.float32, kernels)[2]
    generator = torch.Generator().manual_seed(2)
    slots = torch.tensor([4, 0, 2, 5], device=DEVICE)

    def column(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand(6, 1, generator=generator)).to(DEVICE)

    whole = torch.zeros(6, 1, dtype=torch.int64, device=DEVICE)
    filters = Filters(column(1, 2), column(0.3, 1.3), column(0, 0.1), torch.ones_like(whole).double(), whole)
    seen = (torch.rand(6, VOCABULARY, generator=generator) < 0.1).to(DEVICE)
    for _ in range(10):
        logits = 3 * torch.randn(4, VOCABULARY, generator=generator).to(DEVICE)
        seeds = torch.randint(-(2**62), 2**62, (6,), generator=generator).to(DEVICE)
        steps = torch.randint(0, 10**6, (6,), generator=generator).to(DEVICE)
        own = Filters(*(getattr(filters, name)[slots] for name in Filters.__slots__))
        probabilities = process(logits, seen[slots], own, sort=False, penalty_last=False)
        expected = draw(probabilities, seeds[slots], steps[slots])
        assert torch.equal(step.draw(logits, slots, seen, filters, seeds, steps), expected)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="tests/test_gpu.py has it")
@pytest.mark.parametrize("family", ["chatterbox", "chatterbox-multilingual", "chatterbox-turbo"])
def test_an_engine_speaks_the_same_tokens(family: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In captured steps, with the guard where the family has one, for streams with and without guidance."""
    plain, voice = started(family)
    monkeypatch.setattr(runner, "Graphs", Rerun)
    monkeypatch.setattr(runner.TritonStep, "of", lambda model, cache: TritonStep(model, cache, kernels))
    own, _ = started(family)
    assert own.runner.kernels == "CUDA graphs of the engine's own GPU kernels"
    try:
        assert drawn(own, voice, FEW) == drawn(plain, voice, FEW)
    finally:
        own.stop()
        plain.stop()


def test_where_it_does_not_fit_pytorch_runs(caplog: pytest.LogCaptureFixture) -> None:
    model = T3Model.from_weights(LLAMA, RandomWeights(1), 64, torch.float32, torch.device("cpu"), "none", "plain")
    assert TritonStep.of(model, KVCache(LLAMA, 1, 64, torch.float32, torch.device("cpu"))) is None
    assert not caplog.records


@pytest.mark.slow
def test_it_compiles_for_every_gpu_since_ampere() -> None:
    bf16, fp32, int64, number = "*bf16", "*fp32", "*i64", "i32"
    cache = {"both": number, "row_stride": number, "head_stride": number}
    norm = {"x": bf16, "delta": bf16, "weight": bf16, "bias": bf16, "out": bf16, "eps": "fp32", "width": number}
    attend = {
        "qkv": bf16, "cos": bf16, "sin": bf16, "positions": int64, "queries": bf16, "cache": bf16, "out": bf16, **cache,
        "length": number, "scale": "fp32",
    }  # fmt: skip
    heads = {"HEADS": 16, "WIDTH": 64}
    draws = {
        "logits": fp32, "slots": int64, "seen": "*i1", "penalties": fp32, "temperatures": fp32, "min_p": fp32,
        "seeds": int64, "steps": int64, "drawn": int64, "vocabulary": number,
    }  # fmt: skip
    normals = {"seeds": int64, "starts": int64, "made": fp32, "count": number}
    kernels: list[Kernel] = [
        ("add_norm", norm, {"ADDS": True, "CENTRED": False, "BLOCK": 1024}, 4),
        ("add_norm", norm, {"ADDS": False, "CENTRED": True, "BLOCK": 1024}, 4),
        ("attend", attend, {"TURNS": True, "ASKED": False, **heads, "BLOCK": 128}, 8),
        ("attend", attend, {"TURNS": True, "ASKED": True, **heads, "BLOCK": 128}, 8),
        ("attend", attend, {"TURNS": False, "ASKED": False, **heads, "BLOCK": 128}, 8),
        ("gate", {"gate_up": bf16, "out": bf16, "width": number}, {"BLOCK": 1024}, 4),
        ("draw", draws, {"KEY": key_of(Domain.SAMPLING, 0), "BLOCK": 16384}, 16),
    ]
    noise = "normals", normals, {"RADIUS": key_of(Domain.FLOW, 0), "ANGLE": key_of(Domain.FLOW, 1), "BLOCK": 1024}, 4
    compile_kernels("t3.triton_kernels", kernels)
    compile_kernels("accel.triton_noise", [noise])
