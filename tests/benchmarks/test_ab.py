"""The variants, a real pair of them, and the page that their figures go into."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import render
from benchmarks.ab import kl
from benchmarks.ab_variants import CLAIMS, variants
from benchmarks.subject import RESULTS, configured
from chatterbox_engine.config import PROFILES
from tests.benchmarks.conftest import Bench

SMALL = ("--tokens", "6", "--positions", "120", "--seconds", "1", "--e2e-tokens", "12", "--kl-positions", "12")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_variants_are_configurations_unlike_their_base(device: str) -> None:
    found = variants(device)
    for variant in found:
        assert configured(variant.profile, variant.switches) != configured(variant.base, ()), variant.name
    assert len({(variant.section, variant.name, variant.stage) for variant in found}) == len(found)
    assert {variant.profile for variant in found if variant.section == "profile"} == PROFILES.keys() - {"reference"}
    assert any(variant.section == "without" for variant in found)


def test_what_needs_a_gpu_waits_for_one() -> None:
    assert {variant.waits for variant in variants("cpu")} == {None, "a GPU"}
    assert {variant.waits for variant in variants("cuda")} == {None, "a CPU"}


def test_every_switch_has_a_variant() -> None:
    places = {
        "threads", "memory.idle_s", "t3.max_streams", "t3.max_positions", "t3.prefill_positions", "t3.queue_tokens",
        "s3gen.max_streams", "s3gen.max_batch", "s3gen.max_lead_s", "s3gen.queue_chunks",
    }  # fmt: skip
    varied = {switch.partition("=")[0] for variant in variants("cpu") for switch in variant.switches}
    config = configured("reference", ()).model_dump()
    named = {f"{stage}.{name}" for stage, own in config.items() if isinstance(own, dict) for name in own}
    named |= {name for name, own in config.items() if not isinstance(own, dict)}
    assert named - varied == places


def test_every_claim_has_a_row_or_a_reason() -> None:
    alone = {name for variant in variants("cpu") if variant.section == "alone" for name in variant.name.split()}
    assert {claim.name for claim in CLAIMS} == {
        "alignment analyzer off", "output_attentions off", "flash attention", "mixed precision", "inference mode",
        "channels last", "warm-up", "Vocos", "text splitting", "quantisation", "KV cache", "CPU offloading",
        "CUDA cache management", "compile", "chunk size",
    }  # fmt: skip
    for claim in CLAIMS:
        assert set(claim.rows) <= alone, claim.name
        assert claim.here
        assert not (claim.rows and claim.waits)


def test_divergence() -> None:
    own = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32))
    other = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], np.float32))
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert kl(own, other) == pytest.approx([0, expected], abs=1e-6)


def test_a_switch_beside_its_base(bench: Bench, tmp_path: Path) -> None:
    told = bench("ab", "--model", "demo", "--device", "cpu", "--repeats", "1", *SMALL,
                 "--only", "t3.kv_cache", "--only", "s3gen.cfm_steps", "--only", "cuda_graphs")  # fmt: skip
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in told["rows"]}
    full = rows["t3.kv_cache=full"]
    assert (full["same_tokens"], full["kl_positions"]) == ("2 of 2", 12)
    assert full["kl"] == pytest.approx(0, abs=1e-6)
    assert full["peak_bytes"] > 1e7
    assert rows["s3gen.cfm_steps=5"]["mel"] > 0
    assert rows["t3.cuda_graphs=true t3.exact=false"]["waits"] == "a GPU"
    assert len(told["rounds"]["alone t3 t3.kv_cache=full"]["base"]) == 1

    text = render.comparisons(tmp_path)
    assert "### demo on cpu" in text
    assert "2 of 2 runs equal" in text
    assert "waits for a GPU" in text
    for claim in CLAIMS:
        assert f"| {claim.name} |" in text


def test_the_page_is_what_its_figures_render_to() -> None:
    page = render.PAGE.read_text()
    assert page == render.rendered(page, RESULTS), "run `python -m benchmarks render`"


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ceilings"):
        render.rendered("no markers", tmp_path)
    assert "Nothing is measured yet" in render.comparisons(tmp_path)
