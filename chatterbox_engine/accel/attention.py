"""Which of PyTorch's fused attention kernels runs."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from chatterbox_engine.config import Attention

logger = logging.getLogger(__name__)

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class AttentionKernel:
    """The kernel that a switch names, tried once under the conditions it must run in.

    `auto` leaves the choice to PyTorch. One that does not run here is said once, and the choice is left to PyTorch.
    """

    def __init__(self, wanted: Attention, device: torch.device, dtype: torch.dtype, head_width: int) -> None:
        self._backend = _BACKENDS.get(wanted)
        if self._backend is not None and not _runs(self._backend, device, dtype, head_width):
            logger.warning("attention: %s does not run here (%s, %s, masked); PyTorch chooses.", wanted, device, dtype)
            self._backend = None
        self.name = wanted if self._backend is not None else "fused"

    def __call__(self) -> AbstractContextManager[None]:
        """A context in which scaled_dot_product_attention uses it."""
        return nullcontext() if self._backend is None else sdpa_kernel(self._backend)


def _runs(backend: SDPBackend, device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    q = torch.zeros(2, 2, 1, head_width, dtype=dtype, device=device)
    keys = torch.zeros(2, 2, 64, head_width, dtype=dtype, device=device)
    mask = torch.ones(2, 1, 1, 64, dtype=torch.bool, device=device)
    try:
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(q, keys, keys, attn_mask=mask)
    except RuntimeError:
        return False
    return True
