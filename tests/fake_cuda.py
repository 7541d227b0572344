"""A CUDA device where there is none, of PyTorch's fake tensors: shapes, types and devices are real, numbers are not.

What a GPU would refuse is refused: tensors of two devices in one operator, a number asked back from the device and,
inside of what is captured, all that needs the host. What a kernel computes, and how fast, only a GPU can tell.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda")

_HARMLESS = ("aten.lift_fresh.default", "aten.fill_.Tensor", "prim.device.default")
"""Operators that read a number of the host's as they are launched."""


class HostTraffic(RuntimeError):
    """Something that cannot be captured."""


class Launches(TorchDispatchMode):
    """Counts operators, views among them; refuses those that touch the host's memory, where `alone`."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.count = 0
        self._alone = alone

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        result = function(*args, **(kwargs or {}))
        if self._alone:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            of_host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
            if any(tensor.dim() for tensor in of_host) or (of_host and str(function) not in _HARMLESS):
                raise HostTraffic(f"{function} needs the host")
        return result


class _Stream:
    """Also an event: nothing is ever under way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_stream(self, other: "_Stream") -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class _Graph:
    def replay(self) -> None: ...


@contextlib.contextmanager
def _capturing(graph: _Graph, **how: Any) -> Iterator[None]:
    with Launches(alone=True):
        yield


def _moved(module: torch.nn.Module, to: torch.device | torch.dtype) -> torch.nn.Module:
    """Module.to, which cannot swap a fake parameter's tensor."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(parameter.to(to), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(to)
    return module


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made within are fake, those of before become so as they are used, and graphs replay nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", _moved)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        for name in ("Stream", "Event"):
            patch.setattr(torch.cuda, name, _Stream)
        for name in ("current_stream", "default_stream"):
            patch.setattr(torch.cuda, name, lambda device=None: _Stream())
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "CUDAGraph", _Graph)
        patch.setattr(torch.cuda, "graph", _capturing)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "set_stream", lambda stream: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**36, 2**37))
        for name in ("memory_reserved", "memory_allocated"):
            patch.setattr(torch.cuda, name, lambda device=None: 2**30)
        # PyTorch's own way to here refuses a device without an index.
        patch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch._C, "_cuda_getMemoryFraction", lambda index: 1.0, raising=False)
        # Inference mode would show operators whole that are made of others.
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            yield
