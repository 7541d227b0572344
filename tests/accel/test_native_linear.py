"""The CPU's own linear layers against float64, by each set of instructions that the processor has."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native_linear import NativeLinear

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no AVX2 here, or no C compiler")


@pytest.fixture(params=["AMX", "AVX512", "AVX2"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    order = ["AVX2", "AVX512", "AMX"]
    if order.index(request.param) > order.index(str(native.instructions())):
        pytest.skip(f"this processor has no {request.param}")
    if request.param == "AVX2":
        monkeypatch.setattr(native, "kernels", native.narrow)
    kernels = native.kernels()
    assert kernels is not None
    assert kernels.prepare(int(request.param == "AMX")) == int(request.param == "AMX")
    yield
    kernels.prepare(1)


def layer(inputs: int, outputs: int, bias: bool, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def native_linear(linear: nn.Linear, digits: int) -> NativeLinear:
    return NativeLinear(linear.weight, linear.bias, digits)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("digits", "tolerance"), [(0, 4e-3), (1, 2e-2), (2, 8e-3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 64, 65, 130])
def test_products_are_those_of_float64(rows: int, digits: int, tolerance: float, bias: bool) -> None:
    """83 outputs do not fill their blocks, nor 640 inputs the slices that are multiplied at a time."""
    linear = layer(640, 83, bias)
    x = torch.randn(rows, 640, generator=torch.Generator().manual_seed(rows))
    expected = linear.double()(x.double())
    own = native_linear(linear.float(), digits)(x)
    assert own.shape == expected.shape
    assert (own - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("digits", [1, 2])
@given(rows=st.integers(1, 70), picked=st.integers(0, 69), seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_in_8_bits_a_row_does_not_depend_on_those_beside_it(digits: int, rows: int, picked: int, seed: int) -> None:
    own = native_linear(layer(640, 80, True), digits)
    x = torch.randn(rows, 640, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-3, 3, rows)[:, None]
    row = picked % rows
    assert torch.equal(own(x)[row], own(x[row : row + 1])[0])


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("digits", [1, 2])
def test_sums_of_integers_are_exact(digits: int) -> None:
    """Weights and activations that 8 bits hold come out as they are, whatever their sum."""
    generator = torch.Generator().manual_seed(1)
    linear = layer(256, 32, False)
    weight = torch.randint(-127, 128, (32, 256), generator=generator).float()
    weight[:, 0] = 127  # so that the scale is 1
    linear.weight.data = weight
    x = torch.randint(-127, 128, (5, 256), generator=generator).float()
    x[:, 0] = 127
    assert (native_linear(linear, digits)(x) - x @ weight.t()).abs().max() <= 1.0  # of sums up to four millions


def test_shape_and_type_are_kept_and_odd_widths_refused() -> None:
    own = native_linear(layer(64, 16, True), 2)
    assert own(torch.zeros(2, 3, 64, dtype=torch.bfloat16)).shape == (2, 3, 16)
    assert own(torch.zeros(1, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert own(torch.zeros(1, 64)).isfinite().all()
    with pytest.raises(ValueError, match="multiple of 32"):
        native_linear(layer(65, 16, False), 0)


def test_threads_that_are_not_there_are_not_waited_for() -> None:
    """OpenMP may start fewer than it says it would."""
    code = (
        "import torch; from chatterbox_engine.accel.native_linear import NativeLinear;"
        "torch.set_num_threads(4); linear = torch.nn.Linear(64, 640).requires_grad_(False); x = torch.randn(9, 64);"
        "assert (NativeLinear(linear.weight, linear.bias, 2)(x) - linear(x)).abs().max() < 0.1"
    )
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_the_kernels_compile_where_the_processor_has_what_they_need() -> None:
    """Else every test of them would be skipped."""
    if torch.cpu._is_avx2_supported():
        assert native.kernels() is not None
        assert native.narrow() is not None
