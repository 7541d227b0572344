"""The CPU's kernels as this processor has them, and as one without AVX512 would."""

import contextlib
from collections.abc import Iterator

import pytest

from chatterbox_engine.accel import native

SETS = ["own", "without AVX512"]


@contextlib.contextmanager
def kernel_set(which: str, *, many_rows: bool = False) -> Iterator[None]:
    """What is made within takes its kernels from one of SETS. Skips where there is none, or no other, or `many_rows`
    are not multiplied."""
    if native.kernels() is None:
        pytest.skip("no AVX2 here, or no C compiler")
    with pytest.MonkeyPatch.context() as patch:
        if which == "without AVX512":
            if native.instructions() == "AVX2":
                pytest.skip("this processor has no AVX512 anyway")
            patch.setattr(native, "kernels", native.narrow)
        elif many_rows and not native.multiplies_rows():
            pytest.skip("this processor's kernels do not multiply many rows")
        yield
