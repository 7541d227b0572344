"""CUDA graphs: a function over static tensors is captured once by key and replayed ever after."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WARM_UPS = 2
"""Runs before a capture, in which libraries pick their kernels and allocate their workspaces."""
_REMEMBERED = 1024
"""Shapes of which it is known that they have come."""
_one_at_a_time = threading.Lock()
"""A capture begins with a wait for the whole device, which spoils one that another thread is at."""


@dataclass(slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    """Where it reads them."""
    result: Tensor
    used: int = 0
    """The last call of it."""


class Graphs:
    """Runs functions of tensors; on a CUDA device, if enabled, as captured graphs.

    All graphs share one memory pool, so capture the largest shape first. A capture that fails is said once, and from
    then on everything runs eagerly.
    """

    def __init__(self, device: torch.device, enabled: bool, most: int = 1024) -> None:
        """`most`: graphs kept."""
        self.enabled = enabled and device.type == "cuda"
        self.calls = 0
        """Of `run`, so far."""
        self._most = most
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        """Those used last are the last."""
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None
        self._stream = torch.cuda.Stream(device) if self.enabled else None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, function: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        """The function's result; a captured one's lies in memory that the next run of any graph may overwrite."""
        self.calls += 1
        if key not in self._graphs:
            return function(*given)
        self._graphs.move_to_end(key)
        captured = self._graphs[key]
        captured.used = self.calls
        for own, new in zip(captured.inputs, given, strict=True):
            if own is not None and new is not None:
                own.copy_(new)
        captured.graph.replay()
        return captured.result

    def room(self, call: int) -> bool:
        """Whether a graph more is kept, or one can go that was not used since a call."""
        return len(self._graphs) < self._most or next(iter(self._graphs.values())).used < call

    def capture(self, key: Hashable, function: Callable[..., Tensor], *given: Tensor | None) -> None:
        """Capture the function for a key. It runs a few times before, over copies of what is given, so what else it
        reads and writes must be harmless, and stay in its place."""
        if not self.enabled or key in self._graphs:
            return
        assert self._stream is not None
        inputs = tuple(None if tensor is None else tensor.clone() for tensor in given)
        own = torch.cuda.current_stream()
        try:
            with _one_at_a_time:
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UPS):
                        function(*inputs)
                torch.cuda.current_stream().wait_stream(self._stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    result = function(*inputs)
            self._keep(key, _Captured(graph, inputs, result))
        except RuntimeError as error:
            torch.cuda.set_stream(own)  # PyTorch leaves its own where a capture cannot be ended
            self.enabled = False
            self.clear()
            logger.warning("cuda_graphs: %s could not be captured (%s); running eagerly.", key, error)

    def _keep(self, key: Hashable, captured: _Captured) -> None:
        captured.used = self.calls
        self._graphs[key] = captured
        if len(self._graphs) > self._most:
            self._graphs.popitem(last=False)

    def clear(self) -> None:
        """Forget every graph: what they captured has moved."""
        self._graphs.clear()


class Recurring:
    """A function of tensors that is captured for those of their shapes that come again, and runs eagerly for others.

    Where all graphs are in use, a shape gets one only if it has come since another was used (O'Neil et al., 1993, The
    LRU-K page replacement algorithm). So of too many shapes some are captured, and not all of them again and again.
    """

    def __init__(self, name: str, function: Callable[..., Tensor], graphs: Graphs) -> None:
        """`name`: another than that of any other function with these graphs."""
        self._name = name
        self._function = function
        self._graphs = graphs
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        """The call at which each shape came last."""

    @property
    def enabled(self) -> bool:
        """Whether anything is captured."""
        return self._graphs.enabled

    def recurs(self, *given: Tensor | None) -> bool:
        """Whether inputs of such shapes have come before; now they have."""
        return self._last(self._key(given)) is not None

    def _last(self, key: Hashable) -> int | None:
        """When it came last, if it did; now it does."""
        last = self._seen.get(key)
        self._seen[key] = self._graphs.calls
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return last

    def __call__(self, *given: Tensor | None) -> Tensor:
        graphs, key = self._graphs, self._key(given)
        if graphs.enabled and key not in graphs:
            last = self._last(key)
            if last is not None and graphs.room(last):
                graphs.capture(key, self._function, *given)
        result = graphs.run(key, self._function, *given)
        return result.clone() if key in graphs else result

    def _key(self, given: tuple[Tensor | None, ...]) -> Hashable:
        return self._name, tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in given)
