"""The engine's own GPU kernels (Triton): tried out before they are relied on."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from chatterbox_engine.errors import reason

logger = logging.getLogger(__name__)
Made = TypeVar("Made")


def tried(what: str, device: torch.device, make: Callable[[], Made]) -> Made | None:
    """What `make` gives, which imports kernels and runs each once on the device. None where that fails, which is said
    of `what`."""
    try:
        with torch.cuda.device(device):  # Triton launches on the thread's own
            return make()
    except Exception as error:  # of the compiler, whose exceptions have no common class
        logger.warning("%s could not be compiled (%s); PyTorch's operators run.", what, reason(error))
        return None
