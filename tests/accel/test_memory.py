"""How much memory this process may still take."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from chatterbox_engine.accel import memory
from chatterbox_engine.accel.memory import apply, free_bytes, give_back
from chatterbox_engine.config import MemorySwitches


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


@pytest.fixture(params=["cuda", "cuda:1"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """PyTorch's own functions down to those of its C++ that would ask a driver: they refuse a device as it is named by
    default, without an index, in some places."""
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return torch.device(request.param)


@pytest.mark.parametrize(("share", "more"), [(1.0, 400), (0.5, 100)])
def test_on_a_gpu_what_pytorch_holds_unused_counts(
    gpu: torch.device, share: float, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 bytes PyTorch holds 400, 350 of them in use, and somebody else 200."""
    for name, value in {"mem_get_info": (400, 1000), "memory_reserved": 400, "memory_allocated": 350}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda index: share, raising=False)
    assert free_bytes(gpu) == more + 50


def test_the_allocator_is_set_up_on_a_gpu_alone(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *given: done.append(given), raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", done.append)
    switches = MemorySwitches(expandable_segments=True, limit=0.5)
    apply(switches, torch.device("cpu"))
    give_back(torch.device("cpu"))
    assert done == []
    apply(switches, gpu)
    assert done == ["expandable_segments:True", (0.5, gpu.index or 0)]


def test_this_pytorch_takes_the_allocators_settings() -> None:
    """In a process of its own: they stay."""
    program = "import torch; torch._C._accelerator_setAllocatorSettings('expandable_segments:True')"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
