"""CUDA graphs without CUDA: what is captured runs again, over the memory that a graph would read and write."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from chatterbox_engine.accel.graphs import Graphs, _Captured

CPU = torch.device("cpu")


class Rerun(Graphs):
    """A replay spoils the results of all others, as one may whose memory they share."""

    def __init__(self, device: torch.device, enabled: bool, most: int = 1024) -> None:
        super().__init__(CPU, False, most)
        self.enabled = enabled
        self.replays = self.captures = 0

    def capture(self, key: Hashable, function: Callable[..., Tensor], *given: Tensor | None) -> None:
        inputs = tuple(None if tensor is None else tensor.clone() for tensor in given)
        replay: Any = self._replay(key, lambda: function(*inputs))
        self._keep(key, _Captured(replay, inputs, function(*inputs).clone()))
        self.captures += 1

    def _replay(self, key: Hashable, function: Callable[[], Tensor]) -> "_Replay":
        def again() -> None:
            self.replays += 1
            made = function()
            for captured in self._graphs.values():
                captured.result.fill_(torch.nan if captured.result.is_floating_point() else -1)
            self._graphs[key].result.copy_(made)

        return _Replay(again)


class _Replay:
    def __init__(self, again: Callable[[], None]) -> None:
        self.replay = again
