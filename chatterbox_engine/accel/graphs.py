"""CUDA graphs: a function over static tensors is captured once by key and replayed ever after."""

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WARM_UPS = 2
"""Runs before a capture, in which libraries pick their kernels and allocate their workspaces."""


class Graphs:
    """Runs a function of no arguments; on a CUDA device, if enabled, as a captured graph.

    All graphs share one memory pool, so capture the largest shape first. A capture that fails is said once, and from
    then on everything runs eagerly.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None
        self._stream = torch.cuda.Stream(device) if self.enabled else None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, function: Callable[[], Tensor]) -> Tensor:
        """The function's result; a captured one lies in memory that the key's next run overwrites."""
        if key not in self._graphs:
            return function()
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def capture(self, key: Hashable, function: Callable[[], Tensor]) -> None:
        """Capture the function for a key. It runs a few times before, so its inputs must be harmless ones."""
        if not self.enabled or key in self._graphs:
            return
        assert self._stream is not None
        try:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    function()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = function()
            self._graphs[key] = graph, result
        except RuntimeError as error:
            self.enabled = False
            self.clear()
            logger.warning("cuda_graphs: the step %s could not be captured (%s); running eagerly.", key, error)

    def clear(self) -> None:
        """Forget every graph: what they captured has moved."""
        self._graphs.clear()
