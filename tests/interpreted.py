"""Triton's kernels without a GPU: by its interpreter, which tests/conftest.py asks for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Kernels take tensors of DEVICE. Skips where there is no Triton."""
    pytest.importorskip("triton", reason="there is no Triton for this system")
    if DEVICE.type == "cuda":
        yield
        return
    from triton.runtime import interpreter

    own = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        own(tensor, scope)
        # Its numbers are arrays of one, which NumPy takes for no number any more.
        scope.set_attr(tensor, "__index__", lambda number: int(number.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        yield
