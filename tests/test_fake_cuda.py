"""What runs on a GPU keeps to it: every model, prefill and step, every chunk, captured or not; without a GPU.

See fake_cuda.py for what this can show and what it cannot.
"""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs
from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.config import S3GenSwitches, T3Switches
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.s3gen.model import S3GenModel, keep_pages
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.t3 import runner
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import RandomWeights
from tests.fake_cuda import CUDA, Launches, fake_cuda
from tests.families import small

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real one is here: tests/test_gpu.py")
TEXT = list(range(1, 30))
POSITIONS = 128
STEPS = 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cpu().cuda(),
        lambda x: x + torch.tensor([1.0], device="cuda"),
        lambda x: x.index_put_((torch.zeros(1, dtype=torch.int64, device="cuda"),), torch.tensor(1.0)),
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
    ],
    ids=["there and back", "made on the host", "a number put by index", "asked back", "a length asked back"],
)
def test_what_cannot_be_captured_is_seen(
    function: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with fake_cuda():
        graphs = Graphs(CUDA, enabled=True)
        graphs.capture("plain", lambda x: 2 * x + 1, torch.zeros(3, device=CUDA))
        assert "plain" in graphs
        graphs.capture("it", function, torch.zeros(3, device=CUDA))
    assert not graphs.enabled
    assert "could not be captured" in caplog.text


def t3(checkpoint: Checkpoint, **switches: object) -> tuple[T3Engine, T3Voice]:
    """An engine on the fake device, its loop not started, and a voice."""
    spec = checkpoint.spec.t3
    model = T3Model.from_weights(
        spec, RandomWeights(0), POSITIONS, torch.bfloat16, torch.device("cpu"), "none", "plain"
    )
    model.to(CUDA)
    guard = "on" if spec.alignment_guard else "auto"
    given = T3Switches(max_streams=2, max_positions=POSITIONS, alignment_guard=guard, gpu_kernels="plain", **switches)  # type: ignore[arg-type]  # fmt: skip
    engine = T3Engine(model, given)
    voice = T3Voice("v", torch.zeros(1, spec.speaker_width), torch.zeros(1, 40, dtype=torch.int64))
    return engine, voice


@pytest.mark.parametrize(
    ("family", "kv_precision"),
    [("chatterbox", "int8"), ("chatterbox-multilingual", "auto"), ("chatterbox-turbo", "auto")],
)
def test_t3_captures_every_step_and_serves(
    family: str, kv_precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner.Drawn, "tolist", lambda drawn: [(5, 1)] * drawn._made.shape[1])
    with fake_cuda():
        engine, voice = t3(small(family), kv_precision=kv_precision)
        shapes = engine.runner.shapes()
        for shape in shapes:
            engine.runner.capture(shape)
        assert len(engine.runner.graphs) == len(shapes)
        params = [
            SamplingParams(seed=index, top_p=top_p, max_new_tokens=50) for index, top_p in enumerate((1.0, 0.9, 1.0))
        ]
        streams = [engine.submit(TEXT, voice, own, 4) for own in params]
        for _ in range(12):
            engine.step()
        assert [stream.read(8, timeout=0) for stream in streams] == [([5] * 4, True)] * 3
        engine.rest()
        engine.resume()
        assert (engine.runner.cache.store.device.type, len(engine.runner.graphs)) == ("cuda", 0)
    assert "could not be captured" not in caplog.text


def test_t3_without_graphs_does_not_wait_inside_a_step() -> None:
    with fake_cuda():
        engine, _ = t3(small("chatterbox"), cuda_graphs=False)
        engine.runner._arrange([0, 0], [0], [(0, 1)])
        with Launches(alone=True):
            engine.runner._step(2, 1, 128, True, masked=True)


def s3gen(checkpoint: Checkpoint, **switches: object) -> S3GenEngine:
    given = S3GenSwitches(precision="bf16", chunk_schedule=(25,), cfm_steps=STEPS, **switches)  # type: ignore[arg-type]
    model = S3GenModel(checkpoint.spec.s3gen, RandomWeights(0), torch.bfloat16, CUDA, given)
    return S3GenEngine(model, given, None)


def spoken(engine: S3GenEngine, checkpoint: Checkpoint, count: int, tokens: int) -> list[int]:
    """Samples of each of some streams at once."""
    voice = checkpoint.voice()
    assert voice is not None
    streams: list[SpeechStream] = []
    for index in range(count):
        streams.append(engine.open(voice.for_s3gen(), paced=False))
        streams[-1].begin_piece(index, 0.0)
        streams[-1].feed([7] * tokens, final=True)
        streams[-1].finish()
    while engine.step():
        pass
    samples = []
    for stream in streams:
        made, final = 0, False
        while not final:
            sounds, final = stream.audio.read(timeout=0)
            made += sum(map(len, sounds))
        samples.append(made)
    return samples


class _Kernel:
    """One that computes nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *given, **constants: None


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have none: zeros, where the host asks at the end of a call."""
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape), np.float32))


@pytest.mark.usefixtures("numbers")
def test_s3gen_speaks_from_the_device_and_captures_what_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    """Counted in operators of the host, of which a replay is none."""
    caplog.set_level(logging.WARNING)
    checkpoint = small("chatterbox")
    counts = []
    with fake_cuda():
        engine = s3gen(checkpoint)
        for _ in range(3):
            with Launches() as launches:
                lengths = spoken(engine, checkpoint, 2, 30)
            assert lengths == [lengths[0]] * 2
            assert lengths[0] >= 30 * 960
            counts.append(launches.count)
        assert engine._model.graphs.enabled
        assert len(engine._model.graphs) >= 3
    assert counts[2] < counts[0] / 3
    assert not caplog.records


@pytest.mark.usefixtures("numbers")
def test_s3gen_goes_on_from_chunk_to_chunk_on_the_device() -> None:
    """Of a mean-flow model, with silence at its pieces' ends."""
    checkpoint = small("chatterbox-turbo")
    with fake_cuda():
        engine = s3gen(checkpoint, flow_attention="chunked", gpu_kernels="plain")
        assert min(spoken(engine, checkpoint, 2, 20)) >= 20 * 960


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("family", ["chatterbox", "chatterbox-turbo"])
def test_s3gen_captures_the_steps_of_chunks_that_go_on(
    family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But for what the engine's own kernels compute, which tests/s3gen/test_paged_solver.py shows."""
    caplog.set_level(logging.WARNING)
    kernels: Any = SimpleNamespace(place=_Kernel(), attend=_Kernel())
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 0)
    checkpoint = small(family)
    with fake_cuda():
        engine = s3gen(checkpoint, flow_attention="chunked", gpu_kernels="plain")
        keep_pages(engine._model.flow, engine._model.graphs, kernels)
        for _ in range(3):
            assert min(spoken(engine, checkpoint, 2, 60)) >= 60 * 960
        graphs = engine._model.graphs
        assert all(any(name in key for key in graphs._graphs) for name in ("paged encoder", "paged euler"))
        assert graphs.enabled
    assert not caplog.records
