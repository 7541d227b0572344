"""Triton's kernels without a GPU: by its interpreter, which tests/conftest.py asks for; and their compilation."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

Kernel = tuple[str, dict[str, str], dict[str, int | str], int]
"""Name, types of the arguments, values of the constant ones, warps."""

_COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

module, kernels = json.load(sys.stdin)
assembly = []
for name, types, constants, warps in kernels:
    kernel = getattr(importlib.import_module("chatterbox_engine." + module), name)
    given = {argument: types.get(argument, "constexpr") for argument in kernel.arg_names}
    places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    whole = {(place,): [["tt.divisibility", 16]] for place, type in enumerate(given.values()) if type[0] == "*"}
    for capability in (80, 90, 100):
        made = triton.compile(ASTSource(kernel, given, constexprs=places, attrs=whole),
                              target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
        assert len(made.asm["cubin"]) > 1000
        assembly.append(made.asm["ptx"])
json.dump(assembly, sys.stdout)
"""

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

    builder = interpreter.InterpreterBuilder
    dot = builder.create_dot

    def widened(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        # It has bf16 as whole numbers of 16 bits, and would multiply those.
        return dot(self, *(_widened(side) for side in (a, b)), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        patch.setattr(builder, "create_dot", widened)
        yield


def _widened(side: Any) -> Any:
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import TensorHandle

    if side.dtype.scalar != bfloat16:
        return side
    return TensorHandle((side.data.astype(np.uint32) << 16).view(np.float32), float32)


def compile_kernels(module: str, kernels: list[Kernel]) -> list[str]:
    """To machine code for every GPU since Ampere, by Triton's own assembler: no GPU is needed for that. Tensors begin
    where an allocator lets them. Returns the assembly of each kernel for each of three GPUs."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        input=json.dumps((module, kernels)),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    assembly: list[str] = json.loads(ran.stdout)
    return assembly
