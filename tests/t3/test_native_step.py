"""The CPU's own decode step against the model's layers, and what batches, prefixes and rests leave as it was."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native_linear import NativeLinear
from chatterbox_engine.config import CpuKernels, Quantization, T3Switches
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.native_step import NativeStep
from chatterbox_engine.t3.runner import Runner
from chatterbox_engine.t3.scoring import score
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import RandomWeights

needs_kernels = pytest.mark.skipif(native.kernels() is None, reason="no AVX2 here, or no C compiler")
LLAMA = T3Spec(layers=3, width=256, heads=4, mlp_width=512, speech_vocab=6563, aligned_heads=((0, 1), (2, 3), (1, 0)))
GPT2 = LLAMA.model_copy(
    update={
        "backbone": "gpt2", "learned_positions": False, "perceiver_queries": 0, "emotion": False, "start_tokens": 1,
        "cfg": False, "penalty_last": True, "aligned_heads": (),
    }
)  # fmt: skip
TEXT = [255, *range(20, 60), 0]


def contents(cache: KVCache) -> Tensor:
    """All that a cache holds, as it is read."""
    return torch.stack([torch.stack(cache.read(layer, slice(None), 128)) for layer in range(len(cache.store))])


def model(spec: T3Spec, form: Quantization = "none", kernels: CpuKernels = "auto") -> T3Model:
    return T3Model.from_weights(spec, RandomWeights(1), 300, torch.bfloat16, torch.device("cpu"), form, kernels)


@pytest.fixture(scope="module")
def voice() -> T3Voice:
    generator = torch.Generator().manual_seed(1)
    return T3Voice("v", torch.randn(1, 256, generator=generator), torch.randint(0, 6561, (1, 150), generator=generator))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("form", ["none", "int8", "int8_dynamic"])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 12])
@pytest.mark.parametrize("kv_precision", ["auto", "int8"])
@torch.inference_mode()
def test_a_step_is_the_models_own_layers(spec: T3Spec, form: Quantization, rows: int, kv_precision: Any) -> None:
    """Over the same packed weights and the same cache, row by row at places of its own."""
    own = model(spec, form)
    switches = T3Switches(max_streams=12, max_positions=128, kv_precision=kv_precision)
    runner = Runner(own, switches, guard=False)
    generator = torch.Generator().manual_seed(rows)
    cache = runner.cache
    filled = torch.randn(spec.layers, 12 * runner.width, 128, 2, spec.heads, spec.head_width, generator=generator)
    for layer, keys_values in enumerate(filled):
        positions = torch.arange(128).expand(len(keys_values), -1)
        cache.write(layer, torch.arange(len(keys_values)), positions, keys_values.bfloat16())
    x = torch.randn(rows, spec.width, generator=generator).bfloat16()
    positions = torch.randint(0, 100, (rows,), generator=generator)
    length, first = int(positions.max()) + 1, runner.width * 12 - rows
    before = contents(cache)
    store = cache.store.clone()
    step = NativeStep(own, cache)
    hidden, followed = step(own.placed(x, positions), positions, first, length, aligned=True)
    written = contents(cache)
    cache.store.copy_(store)
    mask = torch.arange(length) <= positions[:, None, None, None]
    expected, attention = own(
        x[:, None], positions[:, None], cache, torch.arange(first, first + rows), slice(first, first + rows), length,
        mask, causal=False, aligned=True,
    )  # fmt: skip
    tolerance = 0.08 if form == "int8_dynamic" else 0.03  # activations in 8 bits round bf16's roundings apart
    assert (hidden - expected[:, 0]).norm() <= tolerance * expected.norm()
    assert (written - contents(cache)).norm() <= tolerance * (contents(cache) - before).norm()
    if spec.aligned_heads:
        assert attention is not None
        assert followed is not None
        assert (followed - attention).abs().max() <= 0.02
        assert ((followed == 0) == (attention == 0)).all()


def tokens(engine: T3Engine, voice: T3Voice, seeds: list[int], **params: Any) -> list[list[int]]:
    given = {"max_new_tokens": 24, "top_k": 0, **params}
    streams = [engine.submit(TEXT, voice, SamplingParams(seed=seed, **given)) for seed in seeds]
    return [stream.read(1000, timeout=60)[0] for stream in streams]


def engine(own: T3Model, **switches: Any) -> T3Engine:
    made = T3Engine(own, T3Switches(max_positions=300, max_streams=4, **switches))
    made.start()
    return made


@needs_kernels
@pytest.mark.parametrize("form", ["int8", "int8_dynamic"])
@pytest.mark.parametrize("kv_precision", ["auto", "int8"])
def test_in_8_bits_a_stream_is_the_same_alone_and_in_a_batch(
    form: Quantization, kv_precision: str, voice: T3Voice
) -> None:
    running = engine(model(LLAMA, form), voice_prefix="off", prefill_positions=10_000, kv_precision=kv_precision)
    try:
        alone = [tokens(running, voice, [seed])[0] for seed in range(4)]
        assert tokens(running, voice, list(range(4))) == alone
    finally:
        running.stop()


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_kept_voice_prefix_changes_nothing(spec: T3Spec, voice: T3Voice) -> None:
    """The second request of a voice begins with keys and values of the first; what it scores stays as it was."""
    plain, kept = (engine(model(spec), voice_prefix=how) for how in ("off", "kv"))
    try:
        cfg = {} if spec.cfg else {"cfg_weight": 0.0}
        expected = [tokens(plain, voice, [seed], **cfg)[0] for seed in (1, 2)]
        got = [tokens(kept, voice, [seed], **cfg)[0] for seed in (1, 2)]
        assert got[0] == expected[0]
        assert got[1][:3] == expected[1][:3]  # bf16 rounds by the shape of a prefill, which may part them later
        assert kept._prefixes.keys_values("v") is not None
    finally:
        plain.stop()
        kept.stop()


def test_an_unconditioned_row_is_computed_once_for_a_voice(voice: T3Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows the text's length alone, so the longest text's serves shorter ones, in company that comes and goes."""
    own = T3Model.from_weights(LLAMA, RandomWeights(1), 300, torch.float32, torch.device("cpu"))
    texts = [TEXT, [255, *range(30, 40), 0], [255, *range(40, 45), 0], [255, *range(20, 55), 0]]
    lengths = [24, 3, 12, 24]  # streams that end early make others move

    def spoken(running: T3Engine) -> list[list[int]]:
        streams = [
            running.submit(text, voice, SamplingParams(seed=seed, max_new_tokens=length, top_k=0, exaggeration=0.7))
            for seed, (text, length) in enumerate(zip(texts, lengths, strict=True))
        ]
        return [stream.read(1000, timeout=60)[0] for stream in streams]

    plain, kept = (engine(own, voice_prefix=how, prefill_positions=16) for how in ("off", "kv"))
    prefilled: list[int] = []
    original = kept.runner.prefill
    try:
        expected = spoken(plain)
        tokens(kept, voice, [9], exaggeration=0.7)
        monkeypatch.setattr(kept.runner, "prefill", lambda rows, starts, prompts: (
            prefilled.extend(map(len, prompts)), original(rows, starts, prompts))[1])  # fmt: skip
        assert spoken(kept) == expected
        voice_positions = own.voice_positions(150)
        conditioned = sum(1 + len(text) + LLAMA.start_tokens for text in texts)  # the 1 is the emotion
        assert sum(prefilled) == conditioned + len(texts) * LLAMA.start_tokens
        prefilled.clear()
        tokens(kept, voice, [9], exaggeration=0.2)  # another way to say it: nothing of it is kept
        assert sum(prefilled) == 2 * (own.prompt_length(voice_positions, len(TEXT)) - voice_positions)
    finally:
        plain.stop()
        kept.stop()


@pytest.mark.parametrize("form", ["none", "int8"])
def test_an_idle_engine_rests_and_comes_back(form: Quantization, voice: T3Voice) -> None:
    own = model(LLAMA, form)
    running = T3Engine(own, T3Switches(max_positions=300, max_streams=2), idle_s=0.2)
    running.start()
    try:
        expected = tokens(running, voice, [1])
        end = time.monotonic() + 10
        while not running.resting and time.monotonic() < end:
            time.sleep(0.02)
        assert running.resting
        assert running.runner.cache.store.numel() == 0
        assert tokens(running, voice, [1]) == expected
    finally:
        running.stop()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_keys_and_values_hardly_change_what_is_drawn_from(dtype: torch.dtype, voice: T3Voice) -> None:
    own = T3Model.from_weights(LLAMA, RandomWeights(1), 300, dtype, torch.device("cpu"))
    plain, quantised = (score(own, TEXT, voice, list(range(50)), SamplingParams(), small) for small in (False, True))
    assert not torch.equal(plain, quantised)
    assert (plain.exp() * (plain - quantised)).sum(-1).mean() < 1e-3


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_scores_are_what_the_engine_draws_from(spec: T3Spec, voice: T3Voice) -> None:
    """Cold, and without penalty and filters, the engine draws the likeliest token each time."""
    own = T3Model.from_weights(spec, RandomWeights(1), 300, torch.float32, torch.device("cpu"))
    coldest = {"min_p": 1.0, "cfg_weight": 0.5} if spec.cfg else {"top_k": 1, "cfg_weight": 0.0}
    params = SamplingParams(temperature=0.05, repetition_penalty=1.0, max_new_tokens=12, **coldest)
    running = engine(own)
    try:
        drawn, _ = running.submit(TEXT, voice, params).read(100, timeout=60)
    finally:
        running.stop()
    assert len(drawn) == 12
    scores = score(own, TEXT, voice, drawn, params)
    assert scores.shape == (12, spec.speech_vocab)
    assert scores.argmax(-1).tolist() == drawn
    assert torch.allclose(scores.exp().sum(-1), torch.ones(12), atol=1e-4)


@needs_kernels
def test_the_kernels_run_where_they_fit() -> None:
    assert isinstance(model(LLAMA).speech_head, NativeLinear)
    assert NativeStep.runs(model(LLAMA))
    assert not NativeStep.runs(model(LLAMA, kernels="packed"))
    assert not NativeStep.runs(model(LLAMA, "int4"))
    narrow = LLAMA.model_copy(update={"heads": 8, "head_width": 32})
    assert not NativeStep.runs(model(narrow))
