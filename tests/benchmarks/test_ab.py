"""The variants, a real pair of them, and the page that their figures go into."""

import json
import multiprocessing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from benchmarks import ab, render
from benchmarks.ab import kl
from benchmarks.ab_variants import CLAIMS, variants
from benchmarks.ab_worker import Process, Sizes
from benchmarks.measure import Measured
from benchmarks.subject import RESULTS, Subject, configured
from chatterbox_engine.config import PROFILES
from tests.benchmarks.conftest import Bench

TINY = ("--model", "dummy:tiny", "--device", "cpu")
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
        "s3gen.hurry_s", "s3gen.admission", "s3gen.vocos_file",
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
    told = bench("ab", *TINY, "--repeats", "2", "--s3gen-repeats", "1", *SMALL, "--skip", "without",
                 "--only", "t3.kv_cache", "--only", "s3gen.cfm_steps", "--only", "cuda_graphs")  # fmt: skip
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in told["rows"]}
    full = rows["t3.kv_cache=full"]
    assert (full["same_tokens"], full["kl_positions"]) == ("2 of 2", 12)
    assert full["kl"] == pytest.approx(0, abs=1e-6)
    assert full["peak_bytes"] > 1e7
    assert rows["s3gen.cfm_steps=5"]["mel"] > 0
    assert rows["t3.cuda_graphs=true t3.exact=false"]["waits"] == "a GPU"
    assert rows["s3gen.cuda_graphs=true"]["waits"] == "a GPU"
    assert rows["t3.gpu_kernels=plain t3.exact=false t3.cuda_graphs=true"]["waits"] == "a GPU"
    assert len(rows) == 6
    assert all(row["date"] and row["commit"] for row in rows.values())
    measured = told["rounds"]["alone t3 t3.kv_cache=full"]
    assert {name: len(own) for name, own in measured.items()} == {"base": 2, "own": 2, "base start": 1, "own start": 1}
    assert full["first"]["median"] == measured["own start"][0]["first_token_s"]
    assert len(told["rounds"]["alone s3gen s3gen.cfm_steps=5"]["own"]) == 1

    text = render.comparisons(tmp_path)
    assert "WER" not in text
    listened = {"variant": "t3.kv_cache=full", "wer": 0.04, "wer_interval": [0.01, 0.062], "mos": 3.5}
    (tmp_path / "quality-choosing-dummy-tiny.json").write_text(json.dumps({"rows": [listened]}))
    text = render.comparisons(tmp_path)
    assert "| 4.0 % (1.0..6.2) | 3.50 |" in text
    assert "### dummy:tiny on cpu" in text
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


QUANTIZED = ("alone t3.quantization=int8", "alone t3.quantization=int8_dynamic", "alone t3.quantization=int4",
             "alone t3.quantization=fp8", "alone t3.quantization=nf4")  # fmt: skip


class FakeProcess:
    """A variant that is its base."""

    failing: ClassVar[set[str]] = set()
    """Switches of variants that do not run."""
    started: ClassVar[list[str]] = []

    def __init__(self, given: Subject, *_: Any) -> None:
        self._name = " ".join(given.switches)
        self.alive = True
        self.started.append(self._name)

    def call(self, method: str, *_: Any) -> Any:
        if self._name in self.failing and method == "begin":
            self.alive = False
            raise RuntimeError("no answer within 300 s")
        answers = {"begin": {"first_token_s": 1.0}, "spoken": [1], "score": np.zeros((1, 2)), "peak_bytes": 5}
        return answers.get(method, [])

    def measure(self) -> Measured:
        if self._name == "t3.quantization=int4" and self.started.count(self._name) == 1:
            raise KeyboardInterrupt
        return {"step_s": 2.0}

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The switches of each process that `ab` starts, none of which is real; int4 interrupts the run the first time."""
    monkeypatch.setattr(ab, "Process", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    return FakeProcess.started


def test_an_interrupted_run_goes_on_where_it_was(bench: Bench, tmp_path: Path, started: list[str]) -> None:
    run = ("ab", *TINY, "--only", "t3.quantization", "--skip", "without", "--skip", "profile")
    with pytest.raises(KeyboardInterrupt):
        bench(*run, "--date", "a day")
    path = tmp_path / "ab-dummy-tiny.json"
    told = json.loads(path.read_text())
    assert [row["name"] for row in told["rows"]] == ["t3.quantization=int8", "t3.quantization=int8_dynamic"]
    assert told["rows"][0]["speed"]["median"] == 1
    assert list(tmp_path.iterdir()) == [path]
    assert "t3.quantization=int8" in render.comparisons(tmp_path)

    started.clear()
    started.append("t3.quantization=int4")  # so that it is not the first time
    told = bench(*run, "--date", "the next day", "--resume")
    assert started[1:] == ["", "t3.quantization=int4", "t3.quantization=nf4"]
    assert [f"{row['section']} {row['name']}" for row in told["rows"]] == list(QUANTIZED)
    assert [row["date"] for row in told["rows"]] == ["a day"] * 2 + ["the next day"] * 3
    assert told["conditions"]["date"] == "a day"
    assert len(told["rounds"]) == 4

    started.clear()
    told = bench(
        *run[:-4], "--date", "then", "--skip", "int4", "--skip", "nf4", "--skip", "fp8", "--skip", "int8_dynamic"
    )
    assert {row["date"] for row in told["rows"]} == {"then"}, "without --resume the file is a new one"


def test_rows_of_other_conditions_are_not_gone_on_with(bench: Bench, tmp_path: Path, started: list[str]) -> None:
    run = ("ab", *TINY, "--only", "int8_dynamic", "--skip", "without")
    bench(*run)
    before = (tmp_path / "ab-dummy-tiny.json").read_text()
    with pytest.raises(SystemExit, match="positions 300, now 200") as refused:
        bench(*run, "--resume", "--positions", "200")
    assert "threads" not in str(refused.value)
    assert (tmp_path / "ab-dummy-tiny.json").read_text() == before
    assert len(started) == 2


def test_a_variant_that_fails_is_a_row(bench: Bench, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeProcess, "failing", {"t3.quantization=int8"})
    told = bench("ab", *TINY, "--only", "t3.quantization=int8", "--skip", "without")
    assert [row.get("note") for row in told["rows"]] == ["no answer within 300 s", None]
    assert list(told["rounds"]) == ["alone t3 t3.quantization=int8_dynamic"]
    assert started == ["", "t3.quantization=int8", "t3.quantization=int8_dynamic"]


def test_a_base_that_fails_is_started_again(bench: Bench, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeProcess, "failing", {""})
    told = bench("ab", *TINY, "--only", "t3.quantization=int8", "--skip", "without")
    assert [row["note"] for row in told["rows"]] == ["its base failed: no answer within 300 s"] * 2
    assert started == ["", "t3.quantization=int8", "", "t3.quantization=int8_dynamic"]


def test_a_process_that_does_not_answer_is_killed() -> None:
    given = Subject("dummy:tiny", torch.device("cpu"), "reference", (), configured("reference", ()))
    begin = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match=r"no answer within 0\.01 s"):
        Process(given, "t3", Sizes(), patience=0.01)
    assert set(multiprocessing.active_children()) <= begin
