"""Switches of the hardware: what applies here does what it says, what does not says so once and changes nothing."""

import functools
import logging

import pytest
import torch
import torch.nn.functional as F

from chatterbox_engine.accel.attention import AttentionKernel
from chatterbox_engine.accel.compile import compiled
from chatterbox_engine.accel.graphs import Graphs
from chatterbox_engine.config import Attention

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["auto", "flash", "efficient", "math"])
def test_every_attention_kernel_gives_the_same(wanted: Attention, caplog: pytest.LogCaptureFixture) -> None:
    """A CPU has no efficient one: it says so, and PyTorch chooses."""
    q, k, v = torch.randn(3, 2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(q, k, v)
    kernel = AttentionKernel(wanted, CPU, torch.float32, 16)
    with kernel():
        assert torch.allclose(F.scaled_dot_product_attention(q, k, v), expected, atol=1e-5)
    assert ("efficient does not run here" in caplog.text) == (wanted == "efficient")


def test_without_cuda_graphs_are_the_function_itself() -> None:
    graphs = Graphs(CPU, enabled=True)
    assert not graphs.enabled
    calls: list[int] = []

    def function() -> torch.Tensor:
        calls.append(1)
        return torch.ones(1)

    graphs.capture("a", function)
    assert "a" not in graphs
    assert not calls
    assert graphs.run("a", function) == 1
    assert calls == [1]
    assert len(graphs) == 0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_what_is_compiled_gives_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's first kernel takes a C++ compiler most of a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x + 1

    assert compiled(double, "off", "it") is double
    fast = compiled(double, "default", "it")
    with torch.inference_mode():
        assert torch.equal(fast(torch.arange(4)), double(torch.arange(4)))


def test_a_compiler_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda function, mode: broken)
    fast = compiled(lambda x: x + 1, "default", "the step")
    with caplog.at_level(logging.WARNING):
        assert [fast(1), fast(2)] == [2, 3]
    assert caplog.text.count("the step could not be compiled (no compiler here)") == 1
