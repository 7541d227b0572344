"""python -m benchmarks bandwidth: how fast this device reads memory and multiplies, the ceilings' denominators."""

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks import conditions, subject
from benchmarks.measure import seconds
from benchmarks.report import Column, Report, number
from chatterbox_engine.accel import native
from chatterbox_engine.accel.device import multiplies_bf16

_CPU_BYTES = 2**30
"""Far more than any cache but the largest servers' keeps; a read of less measures the cache."""
_GPU_BYTES = 2**32
_READS = 5
_OPERATIONS = 6 * 10**10
"""Of a thread, by the CPU's own kernels: half a second with AVX2, some hundredths with AMX."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The best of several runs of one operation."""

    per_second: float
    """Bytes, or floating-point operations."""
    how: str
    """The operation, in words."""


def memory(device: torch.device, size: int | None = None) -> Rate:
    """Bytes a second that the device moves.

    On a CPU: the fastest of a few operations that read a buffer once and write next to nothing, with torch's threads.
    torch.dot came closest to a C program's read on the machines tried. On a GPU: a device-to-device copy, bytes read
    and bytes written together.
    """
    if device.type == "cuda":
        return _gpu_copy(device, size or _GPU_BYTES)
    buffer = torch.ones((size or _CPU_BYTES) // 4)
    candidates: dict[str, Callable[[], Tensor]] = {
        "torch.dot of a float32 buffer with itself": lambda: torch.dot(buffer, buffer),
        "torch.max of a float32 buffer": lambda: buffer.max(),
    }
    rates = [Rate(buffer.nbytes / _best(call, device), f"{how}, {buffer.nbytes / 2**30:g} GiB")
             for how, call in candidates.items()]  # fmt: skip
    return max(rates, key=lambda rate: rate.per_second)


def matmul(device: torch.device, dtype: torch.dtype, size: int | None = None) -> Rate:
    """Operations a second: of a square matrix product on random numbers or, where the CPU's own kernels can do more
    when they read nothing, of that."""
    side = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = Rate(
        2 * side**3 / _best(lambda: a @ b, device), f"{side} x {side} {str(dtype).removeprefix('torch.')} product"
    )
    if device.type != "cpu" or not native.multiplies_rows() or (dtype != torch.bfloat16 and native.has_tiles()):
        return product
    return max(product, _kernels(device), key=lambda rate: rate.per_second)


def _kernels(device: torch.device) -> Rate:
    """AMX's tiles, or AVX2's products of 16 bits, over and over on every thread."""
    kernels = native.kernels()
    assert kernels is not None
    kernels.multiply_over.restype = ctypes.c_int64
    operations = int(kernels.multiply_over(ctypes.c_int64(1)))
    rounds = _OPERATIONS // operations
    took = _best(lambda: torch.tensor(kernels.multiply_over(ctypes.c_int64(rounds))), device)
    how = "AMX's bfloat16 tiles" if native.has_tiles() else "AVX2's products of 16 bits"
    return Rate(torch.get_num_threads() * rounds * operations / took, f"{how}, nothing read")


def _gpu_copy(device: torch.device, size: int) -> Rate:
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    target.copy_(source)
    best = float("inf")
    for _ in range(_READS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3)
    return Rate(2 * size / best, f"device-to-device copy of {size / 2**30:g} GiB, read and written")


def _best(call: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of the fastest run, after one that does not count."""
    call()
    return min(seconds(call, device) for _ in range(_READS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser, model="demo")


def run(options: argparse.Namespace) -> None:
    """Measure memory and matrix products, and report them."""
    given = subject.of(options)
    begin = time.monotonic()
    rates = {"memory": memory(given.device)}
    for dtype in (torch.float32, torch.bfloat16) if multiplies_bf16(given.device) else (torch.float32,):
        rates[f"{str(dtype).removeprefix('torch.')} product"] = matmul(given.device, dtype)
    rows = [{"what": what, **asdict(rate)} for what, rate in rates.items()]
    columns = (
        Column("what", "rate"),
        Column("per_second", "giga a second", lambda value: number(value / 1e9)),
        Column("how", "measured as"),
    )
    told = conditions.gather(given, _READS, options.date, seconds=round(time.monotonic() - begin, 1))
    for key in ("model", "profile", "switches"):
        del told[key]
    Report(f"bandwidth-{given.device.type}", told, columns, rows).emit(options.output)
