"""Under which conditions a figure was measured."""

import os
import platform
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.subject import Subject

_ROOT = Path(__file__).parents[1]
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
"""Those that decide how fast a CPU multiplies small numbers."""


def gather(subject: Subject, repeats: int, date: str | None = None, **more: Any) -> dict[str, Any]:
    """By name, in the order in which they are printed; `more` is the benchmark's own."""
    return {
        "date": date or now(),
        **commit(),
        **machine(subject.device),
        "torch": torch.__version__,
        "model": subject.model,
        "device": str(subject.device),
        "profile": subject.profile,
        "switches": list(subject.switches),
        "repeats": repeats,
        **more,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> dict[str, Any]:
    """The commit, and whether the tree differs from it; unknown where there is no git or no repository."""
    head = _git("rev-parse", "--short", "HEAD")
    changes = _git("status", "--porcelain")
    return {"commit": head or "unknown", "dirty": None if changes is None else bool(changes)}


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, its threads, and the GPU where one is used."""
    found: dict[str, Any] = {
        "processor": _cpu_line("model name") or platform.processor() or platform.machine(),
        "features": [name for name in _CPU_FEATURES if name in (_cpu_line("flags") or "").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: of the GPU as torch counts it, or else of this process (VmHWM).

    ru_maxrss, which there is where no /proc is, remembers also the process that started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


def _cpu_line(name: str) -> str | None:
    """A value of /proc/cpuinfo; None where the system has no such file or line."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        return None
    return found[1] if found else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
