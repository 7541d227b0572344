"""Which device and number format: what is there, or a refusal in words."""

import pytest
import torch

from chatterbox_engine.accel import native
from chatterbox_engine.accel.cpu_linear import packs_bf16
from chatterbox_engine.accel.device import pick_device, s3gen_dtype, set_convolutions, t3_dtype
from chatterbox_engine.errors import InvalidRequest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_is_there_is_taken_and_said() -> None:
    device, why = pick_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert why.startswith("auto: ")
    assert pick_device("cpu") == (CPU, "as configured")


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:x", "mps", "meta", "xpu:0", "cuda:1000"])
def test_what_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(InvalidRequest, match=r"[Uu]se auto") as caught:
        pick_device(wanted)
    assert caught.value.param == "device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_no_cuda_device(wanted: str) -> None:
    with pytest.raises(InvalidRequest, match="sees no CUDA device"):
        pick_device(wanted)


def test_number_formats(caplog: pytest.LogCaptureFixture) -> None:
    assert t3_dtype("auto", CUDA) == torch.bfloat16
    own = native.kernels() is not None
    assert t3_dtype("auto", CPU) == (torch.bfloat16 if own or packs_bf16() else torch.float32)
    assert t3_dtype("auto", CPU, "plain") == (torch.bfloat16 if packs_bf16() else torch.float32)
    assert [t3_dtype(wanted, CPU) for wanted in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16,
    ]  # fmt: skip
    assert [s3gen_dtype(wanted, CPU) for wanted in ("auto", "fp32", "bf16")] == [
        torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32, torch.float32, torch.bfloat16,
    ]  # fmt: skip
    assert t3_dtype("tf32", CPU) == torch.float32
    assert "tf32" in caplog.text


@pytest.mark.parametrize(
    ("capability", "dtype"), [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float32)]
)
def test_s3gen_in_bf16_where_a_gpu_multiplies_it(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert s3gen_dtype("auto", CUDA) == dtype


def test_convolutions_in_fp32_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for wanted, rounded in (("fp32", False), ("tf32", True), ("bf16", False)):
        set_convolutions(wanted)
        assert torch.backends.cudnn.allow_tf32 == rounded


def test_what_overflows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="overflows in fp16") as caught:
        s3gen_dtype("fp16", CPU)
    assert caught.value.param == "s3gen.precision"
