"""The analytic counts against torch's own counter over the modules."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ceilings
from benchmarks.subject import configured
from chatterbox_engine.checkpoint import find
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.spec import ModelSpec
from chatterbox_engine.stages import T3Stage
from chatterbox_engine.types import FRAMES_PER_TOKEN

CPU = torch.device("cpu")


def counted(call: Any) -> int:
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def demo(**changes: Any) -> ModelSpec:
    spec = find("dummy:tiny", "cpu").spec
    return spec.model_copy(update={"s3gen": spec.s3gen.model_copy(update=changes)})


@pytest.mark.parametrize("changes", [{}, {"meanflow": True, "cfm_steps": 2}])
def test_the_flows_operations(changes: dict[str, Any]) -> None:
    spec = demo(**changes).s3gen
    prompt, tokens = 20, 30
    flow = Flow(spec).eval()
    frames = FRAMES_PER_TOKEN * (prompt + tokens)
    inputs = (
        torch.zeros(1, prompt + tokens, dtype=torch.int64),
        torch.zeros(1, FRAMES_PER_TOKEN * prompt, spec.mel_bins),
        torch.ones(1, spec.speaker_width),
        torch.zeros(1, spec.mel_bins, frames),
    )
    assert ceilings.flow_operations(spec, prompt, tokens) == pytest.approx(
        counted(lambda: flow(*inputs, final=True)), rel=0.01
    )


def test_hifts_operations() -> None:
    spec, frames = demo().s3gen, 40
    hift = HiFT(spec.hift, spec.mel_bins).eval()
    mel = torch.zeros(1, spec.mel_bins, frames)
    source = torch.zeros(1, 1, frames * hift.samples_per_frame)
    decoded = counted(lambda: (hift.f0(mel), hift.decode(mel, source)))
    # The harmonic source mixes its sines by a product of its own, which `decode` does not contain.
    mixing = 2 * source.shape[-1] * hift.harmonics
    assert ceilings.hift_operations(spec.hift, spec.mel_bins, frames) == pytest.approx(decoded + mixing, rel=0.01)


def test_vocoss_operations() -> None:
    spec, frames = demo().s3gen, 40
    vocos = Vocos(spec.vocos, spec.mel_bins).eval()
    own = counted(lambda: vocos(torch.zeros(1, spec.mel_bins, frames)))
    assert ceilings.vocos_operations(spec.vocos, spec.mel_bins, frames) == pytest.approx(own, rel=0.01)
    apart = ceilings.hift_operations(spec.hift, spec.mel_bins, frames) - own
    with_hift, with_vocos = (ceilings.s3gen_operations(spec, 20, frames // 2, vocos=there) for there in (False, True))
    assert with_hift - with_vocos == pytest.approx(apart, rel=0.01)


@pytest.mark.parametrize("model", ["dummy:tiny", "dummy:chatterbox-nano"])
def test_t3s_bytes_are_what_the_engine_holds(model: str) -> None:
    checkpoint = find(model, "cpu")
    spec = checkpoint.spec.t3
    stage = T3Stage(checkpoint, configured("balanced", ("t3.precision=fp32", "warmup=none")), CPU)
    engine = stage.engine
    try:
        assert engine.weight_bytes == pytest.approx(4 * ceilings.t3_matrices(spec), rel=0.01)
        assert engine.position_bytes == ceilings.t3_position_bytes(spec, 4)
    finally:
        engine.stop()


def test_the_tables_name_every_model() -> None:
    text = ceilings.tables()
    for spec in ceilings.dimensions():
        assert text.count(f"| {spec.name} ") == 2


def test_a_floor_is_bytes_over_bandwidth() -> None:
    floor = ceilings.StepFloor.of(weight_bytes=1000, position_bytes=10, rows=4, context=25, bytes_a_second=200)
    assert (floor.kv_bytes, floor.seconds) == (1000, 10)
