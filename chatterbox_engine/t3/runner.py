"""Prefill and decode: the only place that calls T3's model, so that graphs and compile have one place to wrap."""

import torch
from torch import Tensor

from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.model import T3Model

_BUCKET = 64
"""Positions by which the part of the cache that a step reads grows: few shapes, and little read for nothing."""


class Runner:
    """Runs the model over rows of the cache."""

    def __init__(self, model: T3Model, rows: int, positions: int) -> None:
        self.model = model
        self.positions = positions
        self.cache = KVCache(model.spec, rows, positions, model.dtype, model.device)

    def prefill(self, rows: list[int], starts: list[int], prompts: list[Tensor]) -> Tensor:
        """Write a part of several prompts: row r gets prompts[r] (C_r, W) from position starts[r] on.

        Returns logits (R, V) at each row's last given position. One row or equal whole prompts run at the
        reference's own shapes; ragged ones are padded, and the padding lands in the cache's scratch place.
        """
        counts = [len(prompt) for prompt in prompts]
        count = max(counts)
        device = self.model.device
        x = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        offsets = torch.arange(count, device=device)
        positions = torch.tensor(starts, device=device)[:, None] + offsets
        whole = max(starts) == 0 and min(counts) == count
        mask = None
        length = count
        if not whole:
            valid = offsets < torch.tensor(counts, device=device)[:, None]
            length = self._bucket(max(start + n for start, n in zip(starts, counts, strict=True)))
            mask = torch.arange(length, device=device) <= positions[:, None, :, None]
            positions = torch.where(valid, positions, self.cache.scratch)
        hidden = self._run(x, positions, rows, length, mask, causal=whole)
        last = torch.tensor(counts, device=device) - 1
        return self.model.logits(hidden[torch.arange(len(rows), device=device), last])

    def decode(self, rows: list[int], lengths: list[int], tokens: Tensor, speech_positions: Tensor) -> Tensor:
        """One step: tokens (R,) embedded at speech_positions (R,), appended behind `lengths` places of each row.

        Returns logits (R, V).
        """
        device = self.model.device
        x = self.model.embed_speech(tokens, speech_positions)[:, None]
        positions = torch.tensor(lengths, device=device)[:, None]
        mask = None
        length = lengths[0] + 1
        if len(set(lengths)) > 1:
            length = self._bucket(max(lengths) + 1)
            mask = torch.arange(length, device=device) <= positions[:, None, :, None]
        hidden = self._run(x, positions, rows, length, mask, causal=False)
        return self.model.logits(hidden[:, 0])

    def _bucket(self, length: int) -> int:
        return min(-(-length // _BUCKET) * _BUCKET, self.positions)

    def _run(
        self, x: Tensor, positions: Tensor, rows: list[int], length: int, mask: Tensor | None, causal: bool
    ) -> Tensor:
        index = torch.tensor(rows, device=self.model.device)
        adjacent = rows == list(range(rows[0], rows[0] + len(rows)))
        read_rows = slice(rows[0], rows[0] + len(rows)) if adjacent else index
        return self.model(x, positions, self.cache, index, read_rows, length, mask, causal)
