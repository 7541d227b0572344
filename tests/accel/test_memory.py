"""How much memory this process may still take."""

from pathlib import Path

import psutil
import pytest
import torch

from chatterbox_engine.accel import memory
from chatterbox_engine.accel.memory import free_bytes


def group(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    return folder


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CONTAINER", group(tmp_path, "1000"))
    assert free_bytes(torch.device("cpu")) == 1000 - 700 + 150


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_it_is_what_the_machine_has(
    limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CONTAINER", group(tmp_path, limit) if limit else tmp_path / "none")
    free = free_bytes(torch.device("cpu"))
    assert 0 < free <= psutil.virtual_memory().total


@pytest.mark.parametrize(("share", "more"), [(1.0, 400), (0.5, 100)])
def test_on_a_gpu_what_pytorch_holds_unused_counts(share: float, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 bytes PyTorch holds 400, 350 of them in use, and somebody else 200."""
    told = {
        "mem_get_info": (400, 1000), "memory_reserved": 400, "memory_allocated": 350,
        "get_per_process_memory_fraction": share,
    }  # fmt: skip
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_bytes(torch.device("cuda")) == more + 50
