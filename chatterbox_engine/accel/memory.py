"""What the engine keeps of the device's memory."""

import logging
import os

import torch

from chatterbox_engine.config import MemorySwitches

logger = logging.getLogger(__name__)


def apply(switches: MemorySwitches, device: torch.device) -> None:
    """Set up PyTorch's allocator, before anything lies on the device.

    Without effect on a CPU. The allocator reads its settings once, so a process that has used the GPU already keeps
    what it has, and says so.
    """
    if device.type != "cuda":
        return
    if switches.expandable_segments:
        if torch.cuda.is_initialized():
            logger.warning("memory.expandable_segments: this process has used the GPU already; its allocator stays.")
        else:
            os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if switches.limit is not None:
        torch.cuda.set_per_process_memory_fraction(switches.limit, device)


def free_bytes(device: torch.device) -> int:
    """What the device has that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # benchmarks/gpu.sh does without it

    return int(psutil.virtual_memory().available)


def give_back(device: torch.device) -> None:
    """Return what PyTorch holds and does not use to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
