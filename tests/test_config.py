"""EngineConfig: profiles change what they name, and what is unknown or out of range is refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatterbox_engine.config import PROFILES, EngineConfig, S3GenSwitches, T3Switches
from chatterbox_engine.errors import InvalidRequest


def test_the_profiles() -> None:
    assert EngineConfig.profile() == EngineConfig.profile("balanced") == EngineConfig()
    reference = EngineConfig.profile("reference")
    assert reference.t3.exact
    assert (reference.t3.precision, reference.s3gen.precision) == ("fp32", "fp32")
    assert not EngineConfig().t3.exact
    assert reference.t3.quantization == "none"
    assert not reference.t3.cuda_graphs
    for name in PROFILES:
        assert isinstance(EngineConfig.profile(name), EngineConfig)
    assert EngineConfig.profile("throughput").t3.max_streams > EngineConfig.profile("low-vram").t3.max_streams


@pytest.mark.parametrize(
    ("name", "switches", "where"),
    [
        ("fast", {}, "profile"),
        ("balanced", {"compile_everything": True}, "compile_everything"),
        ("balanced", {"t3": {"layers": 3}}, "t3.layers"),
        ("balanced", {"s3gen": {"exact": True}}, "s3gen.exact"),
        ("balanced", {"t3": {"precision": "fp8"}}, "t3.precision"),
        ("balanced", {"t3": {"max_streams": 0}}, "t3.max_streams"),
        ("balanced", {"t3": {"max_positions": 10**6}}, "t3.max_positions"),
        ("balanced", {"t3": 3}, "t3"),
        ("balanced", {"s3gen": {"chunk_schedule": []}}, "s3gen.chunk_schedule"),
        ("balanced", {"s3gen": {"chunk_schedule": [20, 0]}}, "s3gen.chunk_schedule.1"),
        ("balanced", {"s3gen": {"vocoder": "griffin-lim"}}, "s3gen.vocoder"),
        ("balanced", {"s3gen": {"context_window": -1}}, "s3gen.context_window"),
        ("balanced", {"s3gen": {"cfm_steps": 0}}, "s3gen.cfm_steps"),
        ("balanced", {"s3gen": {"max_lead_s": float("nan")}}, "s3gen.max_lead_s"),
        ("balanced", {"threads": 0}, "threads"),
        ("balanced", {"watermark": {"on": True}}, "watermark"),
    ],
)
def test_what_is_wrong_is_refused_by_name(name: str, switches: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EngineConfig.profile(name, **switches)
    assert caught.value.param == where
    assert (name if where == "profile" else where) in str(caught.value)


@given(max_streams=st.integers(1, 1024), steps=st.integers(1, 100), as_model=st.booleans())
def test_switches_change_what_they_name_and_keep_the_profiles_others(
    max_streams: int, steps: int, as_model: bool
) -> None:
    profile = EngineConfig.profile("reference")
    t3: Any = T3Switches(max_streams=max_streams) if as_model else {"max_streams": max_streams}
    s3gen: Any = S3GenSwitches(cfm_steps=steps) if as_model else {"cfm_steps": steps}
    changed = EngineConfig.profile("reference", t3=t3, s3gen=s3gen, watermark=False)
    assert changed.t3 == profile.t3.model_copy(update={"max_streams": max_streams})
    assert changed.s3gen == profile.s3gen.model_copy(update={"cfm_steps": steps})
    assert (changed.watermark, changed.threads) == (False, profile.threads)
    assert EngineConfig.profile("reference") == profile


def test_it_is_frozen() -> None:
    config: Any = EngineConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.watermark = False
    with pytest.raises(ValidationError, match="frozen"):
        config.t3.exact = True
