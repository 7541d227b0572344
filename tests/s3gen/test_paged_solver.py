"""Chunks over pages by the GPU's own attention, by Triton's interpreter where no GPU is, against tensors that grow."""

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen import model as module
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.model import S3GenModel, keep_pages
from chatterbox_engine.s3gen.paged import few
from chatterbox_engine.s3gen.paged_solver import PagedSolver
from chatterbox_engine.s3gen.pages import PagedPast
from chatterbox_engine.s3gen.solver import EulerSolver
from chatterbox_engine.spec import S3GenSpec
from chatterbox_engine.weights import RandomWeights, load
from tests.interpreted import DEVICE, compile_kernels
from tests.rerun import CPU, Rerun
from tests.s3gen import test_past
from tests.s3gen.test_engine import SPEC as SPOKEN
from tests.s3gen.test_engine import say, spoken, tokens, voice

CLOSE = 5e-5
BINS = test_past.BINS
STEPS = 2
EAGER = Graphs(DEVICE, False)
SMALL = test_past.SPEC.model_copy(update={"estimator": test_past.SPEC.estimator.model_copy(update={"mid_stages": 1})})
MEANFLOW = SMALL.model_copy(update={"meanflow": True})


def loaded(spec: S3GenSpec, dtype: torch.dtype = torch.float32) -> Flow:
    with torch.device("meta"):
        flow = Flow(spec)
    load(flow, RandomWeights(1), dtype=dtype)
    return flow.to(DEVICE)


def given(streams: int, frames: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, mu, cond = (torch.randn(streams, BINS, frames, generator=generator).to(DEVICE) for _ in range(3))
    return x, mu, torch.randn(streams, BINS, generator=generator).to(DEVICE), cond


def solvers(flow: Flow, gpu_kernels: ModuleType, graphs: Graphs) -> tuple[EulerSolver, PagedSolver]:
    estimator = flow.decoder.estimator
    return EulerSolver(estimator, flow.spec), PagedSolver(estimator, flow.spec, graphs, gpu_kernels)


@pytest.mark.parametrize(("spec", "captured"), [(SMALL, True), (MEANFLOW, False)], ids=["guided", "meanflow"])
def test_chunks_are_those_of_tensors_that_grow(spec: S3GenSpec, gpu_kernels: ModuleType, captured: bool) -> None:
    """Streams of a voice that was heard, at other places than each other, ragged, that forget their middles."""
    if captured and DEVICE.type == "cuda":
        pytest.skip("tests/test_gpu.py has it")
    flow, graphs = loaded(spec), Rerun(CPU, True) if captured else EAGER
    made = []
    with torch.inference_mode():
        for solver in solvers(flow, gpu_kernels, graphs):
            heard = solver.begin(STEPS)
            solver.go_on(*given(1, 45, 0), [45], [heard])
            pasts = [heard.copy() for _ in range(3)]
            own = [solver.go_on(*given(1, 10, 1), [10], pasts[1:2])]
            for seed, counts in enumerate([(6, 20, 13), (20, 20, 20), (20, 20, 20), (1, 3, 2)], start=2):
                mel = solver.go_on(*given(3, max(counts), seed), counts, pasts)
                own += [mel[row, :, :count] for row, count in enumerate(counts)]
                pasts[2].forget(45, 7)
            made.append(own)
    for ours, expected in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=CLOSE, rtol=0)
    if captured:
        assert graphs.replays >= 2 * STEPS


def test_streams_share_the_pages_of_their_voice(gpu_kernels: ModuleType) -> None:
    _, solver = solvers(loaded(MEANFLOW), gpu_kernels, EAGER)
    with torch.inference_mode():
        heard = solver.begin(STEPS)
        solver.go_on(*given(1, 40, 0), [40], [heard])
        assert isinstance(heard, PagedPast)
        before = [page.memory.clone() for page in heard.pages]
        one, two = heard.copy(), heard.copy()
        solver.go_on(*given(2, 10, 1), [10, 10], [one, two])
    assert [len(past.pages) for past in (heard, one, two)] == [2, 3, 3]
    for place, page in enumerate(heard.pages):
        assert page.memory is one.pages[place].memory is two.pages[place].memory
        assert torch.equal(page.memory, before[place])


def test_in_bf16(gpu_kernels: ModuleType) -> None:
    flow = loaded(SMALL, torch.bfloat16)
    made = []
    with torch.inference_mode():
        for solver in solvers(flow, gpu_kernels, EAGER):
            past = solver.begin(STEPS)
            for seed, count in enumerate((40, 20)):
                x, *rest = given(1, count, seed)
                mel = solver.go_on(x, *(part.to(torch.bfloat16) for part in rest), [count], [past])
            made.append(mel)
    assert (made[1] - made[0]).abs().mean() < 0.01 * made[0].abs().mean()


def test_an_engine_speaks_the_same(gpu_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In captured steps, streams of every length beside each other."""
    if DEVICE.type == "cuda":
        pytest.skip("tests/test_gpu.py has it")
    spec = SPOKEN.model_copy(update={"cfm_steps": 2})
    switches = S3GenSwitches(max_streams=8, precision="fp32", cpu_kernels="plain", flow_attention="chunked")
    made = []
    lengths = (25, 33)
    for own in (False, True):
        if own:
            monkeypatch.setattr(module, "Graphs", Rerun)
        model = S3GenModel(spec, RandomWeights(0), torch.float32, CPU, switches)
        if own:
            keep_pages(model.flow, model.graphs, gpu_kernels)
        engine = S3GenEngine(model, switches, None)
        assert ("GPU kernels" in engine._model.kernels) == own
        engine.start()
        sounds = [say(engine, 21, (10, 20), 1)]
        streams = [engine.open(voice(), schedule=(10, 15), paced=False) for _ in lengths]
        for seed, (stream, count) in enumerate(zip(streams, lengths, strict=True)):
            stream.begin_piece(seed, 0.0)
            stream.feed(tokens(count), final=True)
            stream.finish()
        made.append(sounds + [spoken(stream) for stream in streams])
        engine.stop()
    for ours, expected in zip(*made, strict=True):
        assert np.abs(ours - expected).max() <= 1e-4


def test_few_numbers_of_streams() -> None:
    assert [few(streams) for streams in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 24, 25, 32)] == [
        1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 24, 32, 32,
    ]  # fmt: skip
    assert all(streams <= few(streams) < 2 * streams for streams in range(1, 300))


@pytest.mark.slow
def test_it_compiles_for_every_gpu_since_ampere() -> None:
    """Whatever is kept is read and written 16 bytes at a time."""
    bf16, int64, number = "*bf16", "*i64", "i32"
    plan = {
        "plan": int64, "plan_width": number, "step": int64, "layers": number, "layer": number, "frames": number,
        "streams": number, "sequences": number,
    }  # fmt: skip
    sizes = {"HEADS": 8, "WIDTH": 64, "PAGE": 32}
    attend = {"queries": bf16, "out": bf16, "added": bf16, **plan, "scale": "fp32"}
    assembly = compile_kernels(
        "s3gen.triton_kernels",
        [
            ("place", {"keys": bf16, "values": bf16, **plan}, sizes, 4),
            ("attend", attend, {**sizes, "BLOCK": 64, "ADDS": False, "PRECISION": "tf32"}, 4),
            ("attend", attend, {**sizes, "BLOCK": 64, "ADDS": True, "PRECISION": "tf32"}, 4),
        ],
    )
    assert len(assembly) == 9
    assert not [text for text in assembly[:6] if "global.b16" in text or "global.b32" in text]
