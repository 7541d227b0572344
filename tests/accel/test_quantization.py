"""Forms of weights: what they cost in accuracy, what they store, and what is said where one cannot be had."""

import logging

import pytest
import torch
from torch import nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.cpu_linear import Int4Linear, Int8Linear, PackedLinear, packs_bf16, packs_int8
from chatterbox_engine.accel.quantization import applicable, quantise, stored_bytes
from chatterbox_engine.config import CpuKernels, Quantization

CPU = torch.device("cpu")


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256, bias=False))
        self.head = nn.Linear(256, 130, bias=False)
        self.spared = nn.Linear(256, 8)
        self.requires_grad_(False).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x))


@pytest.mark.parametrize("kernels", ["auto", "packed", "plain"])
@pytest.mark.parametrize(
    ("form", "share", "tolerance"),
    [("none", 1.0, 0.01), ("int8", 0.55, 0.02), ("int8_dynamic", 0.55, 0.03), ("int4", 0.45, 0.2)],
)
def test_forms_are_near_the_whole_weights_and_smaller(
    form: Quantization, share: float, tolerance: float, kernels: CpuKernels
) -> None:
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = _Model().double()(x.double())
    model = _Model()
    whole = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith("spared"))
    quantise(model, form, CPU, kernels, head="head", whole="spared")
    with torch.inference_mode():
        own = model(x)
    assert own.dtype == torch.bfloat16
    assert (own - expected).norm() <= tolerance * expected.norm()
    assert type(model.spared) is nn.Linear
    stored = stored_bytes(model.block) + stored_bytes(model.head)
    assert stored <= 1.02 * share * whole
    if form == "int4":
        assert not isinstance(model.head, Int4Linear)


@pytest.mark.skipif(not packs_int8(), reason="no VNNI here")
@pytest.mark.parametrize("digits", [1, 2])
def test_packed_int8_rows_do_not_depend_on_those_beside_them(digits: int) -> None:
    linear = nn.Linear(128, 48)
    own = Int8Linear(linear, digits)
    x = torch.randn(40, 128) * torch.logspace(-3, 3, 40)[:, None]
    together = own(x)
    for row in (0, 7, 39):
        assert torch.equal(together[row], own(x[row : row + 1])[0])


@pytest.mark.skipif(not packs_bf16(), reason="no AVX512-BF16 and no AMX here")
def test_packed_bf16_is_the_plain_layer() -> None:
    linear = nn.Linear(128, 48).bfloat16().requires_grad_(False)
    x = torch.randn(9, 128).bfloat16()
    assert (PackedLinear(linear)(x) - linear(x)).abs().max() <= 0.02


def test_what_a_cpu_cannot_do_is_said_and_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert applicable("fp8", CPU) == "none"
    assert "fp8" in caplog.text
    assert "GPU" in caplog.text
    assert [applicable(form, CPU) for form in ("none", "int8", "int8_dynamic", "int4")] == [
        "none", "int8", "int8_dynamic", "int4",
    ]  # fmt: skip


def test_without_a_compiler_the_kernels_are_pytorchs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if native.kernels() is None:
        pytest.skip("this processor has none of the engine's own kernels anyway")
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    native.kernels.cache_clear()
    native.narrow.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert native.kernels() is None
        assert "no-such-compiler" in caplog.text
        model = _Model()
        quantise(model, "int8", CPU, "auto", head="head", whole="spared")
        assert isinstance(model.head, Int8Linear) or not packs_int8()
    finally:
        monkeypatch.undo()
        native.kernels.cache_clear()
        native.narrow.cache_clear()
