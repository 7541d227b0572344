"""What the engine keeps of the device's memory."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.config import MemorySwitches

_CONTAINER = Path("/sys/fs/cgroup")


def apply(switches: MemorySwitches, device: torch.device) -> None:
    """Set up PyTorch's allocator, before anything lies on the device. Without effect on a CPU."""
    if device.type != "cuda":
        return
    if switches.expandable_segments:  # the environment's setting is read too early: naming a device reads it
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    if switches.limit is not None:
        torch.cuda.set_per_process_memory_fraction(switches.limit, device.index)


def free_bytes(device: torch.device) -> int:
    """What this process may still take: of a GPU what nobody has, up to `memory.limit`, and what PyTorch holds unused;
    beside a CPU what the machine has left, and the container."""
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        limit = torch.cuda.get_per_process_memory_fraction(device.index) * whole
        return min(free, int(limit) - held) + held - torch.cuda.memory_allocated(device)
    import psutil  # benchmarks/gpu.sh does without it

    return min([int(psutil.virtual_memory().available), *_left_in(_CONTAINER)])


def _left_in(group: Path) -> list[int]:
    """Bytes that a control group (Linux, version 2) has left beside what it would give back; none where it has no
    limit, or there is no such group."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max"
        return []
    return [limit - used + int(cached["inactive_file"])]


def give_back(device: torch.device) -> None:
    """Return what PyTorch holds and does not use to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def exhausted(error: BaseException) -> bool:
    """Whether it says that there is no memory. PyTorch's allocator of a CPU has no error of its own for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU of memory that counts only once it is written. Raises MemoryError, or torch's of a GPU, where there is
    none."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)  # calloc: the system hands pages out on first touch
    return torch.from_numpy(pages).view(dtype).view(shape)
