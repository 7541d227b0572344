"""The same numbers on a GPU as on a CPU."""

import time

import numpy as np
import pytest
import torch

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]
TEXT = "The same words on another device."
FP32 = {"t3": {"precision": "fp32"}, "s3gen": {"precision": "fp32"}}


@pytest.fixture(scope="module")
def pair() -> tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS]:
    config = EngineConfig.profile("balanced", watermark=False, **FP32)
    return tuple(OptimizedChatterboxTTS.from_pretrained(d, config, model="dummy:tiny") for d in ("cpu", "cuda"))  # type: ignore[return-value]


def test_tokens_and_audio_agree(pair: tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS]) -> None:
    tokens = [tts.speech_tokens(TEXT, seed=3) for tts in pair]
    assert torch.equal(*tokens)
    cpu, cuda = (tts.generate(TEXT, seed=3).numpy() for tts in pair)
    assert np.abs(cpu - cuda).max() <= 1e-3


def test_bf16_speaks_without_nan() -> None:
    config = EngineConfig.profile("balanced", watermark=False)
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model="dummy:tiny")
    audio = tts.generate(TEXT, seed=3)
    assert torch.isfinite(audio).all()
    assert audio.std() > 1e-3


def tokens_of(config: EngineConfig, model: str = "dummy:tiny") -> torch.Tensor:
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model=model)
    try:
        return tts.speech_tokens(TEXT, seed=3, max_new_tokens=40)
    finally:
        tts.close()


@pytest.mark.parametrize("warmup", ["first", "full"])
def test_captured_steps_are_the_eager_ones(warmup: str) -> None:
    """In fp32, whose kernels do not depend on being captured; with the sampling and its filters inside."""
    eager, captured = (
        tokens_of(
            EngineConfig.profile(
                "balanced", watermark=False, warmup=warmup, t3={"precision": "fp32", "cuda_graphs": graphs}
            )
        )
        for graphs in (False, True)
    )
    assert torch.equal(eager, captured)


@pytest.mark.parametrize("graphs", [False, True])
def test_the_engines_own_kernels_draw_the_tokens_that_pytorchs_do(graphs: bool) -> None:
    own, plain = (
        tokens_of(
            EngineConfig.profile(
                "balanced",
                watermark=False,
                t3={"precision": "fp32", "cuda_graphs": graphs, "gpu_kernels": kernels},
            )
        )
        for kernels in ("auto", "plain")
    )
    assert torch.equal(own, plain)


def test_the_engines_own_kernels_run_here() -> None:
    config = EngineConfig.profile("balanced", watermark=False)
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model="dummy:tiny")
    assert tts._t3.engine.runner.kernels == "CUDA graphs of the engine's own GPU kernels"
    tts.close()


def test_a_capture_takes_place() -> None:
    config = EngineConfig.profile("balanced", watermark=False, warmup="full", t3={"max_streams": 2})
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model="dummy:tiny")
    graphs = tts._t3.engine.runner.graphs
    assert graphs.enabled
    assert len(graphs) == len(tts._t3.engine.runner.shapes())
    tts.close()


@pytest.mark.parametrize("attention", ["full", "chunked"])
def test_captured_chunks_are_the_eager_ones(attention: str) -> None:
    """In streams and at their ends, three times over: eager, captured, replayed. Chunks that go on: of tensors that
    grow, and over pages."""
    made = []
    for graphs in (False, True):
        kernels = "auto" if graphs else "plain"
        switches = {"precision": "fp32", "cuda_graphs": graphs, "flow_attention": attention, "gpu_kernels": kernels}
        config = EngineConfig.profile("balanced", watermark=False, t3={"precision": "fp32"}, s3gen=switches)
        tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model="dummy:tiny")
        made.append([tts.generate(TEXT, seed=3).numpy() for _ in range(3)])
        made[-1] += [
            torch.cat([part for part, _ in tts.generate_stream(TEXT, seed=3)], dim=-1).numpy() for _ in range(3)
        ]
        captured = tts._s3gen.model.graphs
        assert (captured.enabled, len(captured) > 0) == (graphs, graphs)
        assert ("own GPU kernels" in tts._s3gen.model.kernels) == (graphs and attention == "chunked")
        tts.close()
    for eager, captured in zip(*made, strict=True):
        assert np.abs(eager - captured).max() <= 1e-3


@pytest.mark.parametrize("form", ["int8", "int8_dynamic", "int4", "fp8", "nf4"])
def test_every_form_of_weights_speaks(form: str) -> None:
    """What this GPU or this environment cannot do falls back and speaks, too."""
    assert len(tokens_of(EngineConfig.profile("balanced", watermark=False, t3={"quantization": form}))) > 10


@pytest.mark.parametrize("mode", ["default", "max-autotune-no-cudagraphs"])
def test_compiled_layers_speak(mode: str) -> None:
    assert len(tokens_of(EngineConfig.profile("balanced", watermark=False, t3={"compile": mode}))) > 10


def test_an_idle_engine_gives_its_memory_back_and_speaks_again() -> None:
    config = EngineConfig.profile("balanced", watermark=False, memory={"idle_s": 0.5})
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", config, model="dummy:tiny")
    expected = tts.speech_tokens(TEXT, seed=3)
    busy = torch.cuda.memory_allocated()
    end = time.monotonic() + 20
    while not tts._t3.engine.resting and time.monotonic() < end:
        time.sleep(0.05)
    assert torch.cuda.memory_allocated() < busy / 2
    assert torch.equal(tts.speech_tokens(TEXT, seed=3), expected)
    tts.close()
