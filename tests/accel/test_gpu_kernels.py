"""Kernels that do not run are done without."""

import contextlib

import pytest
import torch

from chatterbox_engine.accel.gpu_kernels import tried

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


def test_what_runs_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert tried("It", CUDA, lambda: 3) == 3
    assert not caplog.records


@pytest.mark.parametrize("error", [ImportError("no compiler\nat all"), RuntimeError("no compiler")])
def test_what_does_not_is_said_in_a_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> int:
        raise error

    assert tried("It", CUDA, fails) is None
    assert caplog.messages == ["It could not be compiled (no compiler); PyTorch's operators run."]
