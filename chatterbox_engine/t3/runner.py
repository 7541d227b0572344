"""Prefill and decode: the only place that calls T3's model; graphs, compile and attention kernels are chosen here."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatterbox_engine.accel.attention import AttentionKernel
from chatterbox_engine.accel.compile import compiled
from chatterbox_engine.accel.graphs import Graphs
from chatterbox_engine.accel.memory import give_back
from chatterbox_engine.config import T3Switches
from chatterbox_engine.t3.batch import Batch
from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.layers import GPT2Layer, LlamaLayer
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.native_step import NativeStep
from chatterbox_engine.t3.sampling import draw, draw_reference, guide, process
from chatterbox_engine.t3.triton_step import TritonStep

Shape = tuple[int, int, int, bool]
"""Of a decode step: rows, slots that draw, places read, and whether a filter needs the logits sorted."""


class Drawn:
    """Tokens on their way to the host, and where in its text each stream's attention stood."""

    def __init__(self, made: Tensor, count: int) -> None:
        """made (1, S) are tokens, made (2, S) the places, too."""
        self._event: torch.cuda.Event | None = None
        self._made = made[:, :count]
        if made.is_cuda:
            host = torch.empty(len(made), count, dtype=made.dtype, pin_memory=True)
            self._made = host.copy_(self._made, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def tolist(self) -> list[tuple[int, int | None]]:
        """Each stream's token, and its place. Waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        tokens, *places = self._made.tolist()
        return list(zip(tokens, *places, strict=True)) if places else [(token, None) for token in tokens]


class Runner:
    """Runs the model over rows of the cache and slots of the batch."""

    def __init__(self, model: T3Model, switches: T3Switches, guard: bool) -> None:
        self.model = model
        self._switches = switches
        self._full = switches.kv_cache == "full"
        self.device = model.device
        rows = (2 if model.spec.cfg else 1) * switches.max_streams
        positions = switches.max_positions or model.spec.positions
        quantised = switches.kv_precision == "int8"
        self.cache = KVCache(model.spec, rows, positions, model.dtype, self.device, quantised)
        self.graphs = Graphs(self.device, switches.cuda_graphs and not switches.exact)
        self._attention = AttentionKernel(switches.attention, self.device, model.dtype, model.spec.head_width)
        self._own = self._own_step()
        kernels = self._own.kernels if isinstance(self._own, NativeStep) else None
        wanted, free = switches.word_timings, kernels is not None
        follows = guard or (bool(model.spec.aligned_heads) and (wanted == "on" or (wanted == "auto" and free)))
        self.batch = Batch(model.spec, switches.max_streams, self.cache.scratch, follows, guard, self.device, kernels)
        self._index = torch.zeros(4, rows, dtype=torch.int64, device=self.device)
        """Slot of each row; slots that draw, and their two rows among those computed. Where graphs read them."""
        self._arranged: tuple[object, ...] = ()
        if switches.compile != "off":
            for layer in model.layers:
                assert isinstance(layer, LlamaLayer | GPT2Layer)
                for part in ("queries_keys_values", "finish"):
                    setattr(layer, part, compiled(getattr(layer, part), switches.compile, "T3's layers"))

    @property
    def kernels(self) -> str:
        """What a decode step runs on, in words."""
        captured = "CUDA graphs of " if self.graphs.enabled else ""
        if self._own is not None:
            return f"{captured}the engine's own {self._own.device} kernels"
        return f"{captured}PyTorch's operators, {self._attention.name} attention"

    def _own_step(self) -> NativeStep | TritonStep | None:
        """The engine's own kernels, where they run: the CPU's, or the GPU's."""
        if NativeStep.runs(self.model):
            return NativeStep(self.model, self.cache)
        switches = self._switches
        plain = switches.gpu_kernels == "plain" or switches.compile != "off" or switches.exact
        return None if plain else TritonStep.of(self.model, self.cache)

    def rest(self) -> None:
        """Move the weights to the host and let go of the cache and of what was captured."""
        self.graphs.clear()
        self.cache.free()
        self._move(torch.device("cpu"))
        give_back(self.device)

    def resume(self) -> None:
        """Undo `rest`. Graphs are captured again as their shapes come up."""
        self._move(self.device)
        self.cache.allocate()

    def _move(self, device: torch.device) -> None:
        with torch.inference_mode(False):  # torchao's weights cannot be moved within
            self.model.to(device)

    def prefill(
        self, rows: Sequence[int], starts: Sequence[int], prompts: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Write a part of several prompts: row r gets prompts[r] (C_r, W) from position starts[r] on.

        Returns logits (R, V) at each row's last given position, and with the guard the aligned heads' attention
        (R, 2, L) at its last two. One row or equal whole prompts run at the reference's own shapes; ragged ones are
        padded, and the padding lands in the cache's scratch place.
        """
        counts = [len(prompt) for prompt in prompts]
        count = max(counts)
        device = self.device
        x = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
        offsets = torch.arange(count, device=device)
        positions = torch.tensor(starts, device=device)[:, None] + offsets
        whole = max(starts) == 0 and min(counts) == count
        mask = None
        length = count
        if not whole:
            valid = offsets < torch.tensor(counts, device=device)[:, None]
            length = max(start + n for start, n in zip(starts, counts, strict=True))
            mask = torch.arange(length, device=device) <= positions[:, None, :, None]
            positions = torch.where(valid, positions, self.cache.scratch)
        index = torch.tensor(rows, device=device)
        with self._attention():
            hidden, attention = self.model(
                x, positions, self.cache, index, _block(rows, index), length, mask,
                causal=whole, aligned=self.batch.guard is not None,
            )  # fmt: skip
        each = torch.arange(len(rows), device=device)
        last = torch.tensor(counts, device=device) - 1
        if attention is not None:
            attention = torch.stack((attention[each, (last - 1).clamp(min=0)], attention[each, last]), dim=1)
        return self.model.logits(hidden[each, last]), attention

    def draw_first(
        self,
        slots: list[int],
        pairs: list[tuple[int, int]],
        logits: Tensor,
        attention: Tensor | None,
        sort: bool,
        generators: Sequence[torch.Generator] | None,
    ) -> Drawn:
        """The first token of each slot, from a prefill's logits; `pairs` are its two rows among them."""
        index = torch.tensor([slots, *zip(*pairs, strict=True)], device=self.device)
        drawn = self._draw(index[0], index[1], index[2], logits, attention, sort, True, generators)
        return Drawn(drawn, len(slots))

    def decode(
        self,
        owners: list[int],
        slots: list[int],
        pairs: list[tuple[int, int]],
        length: int,
        ragged: bool,
        sort: bool,
        *,
        first_row: int = 0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Drawn:
        """One step: every row from first_row on is fed its slot's last token, and `slots` draw the next one.

        owners: the slot of each row; pairs: the two rows of each of `slots`, counted from first_row. `length`: places
        to read, the longest row's and the new one; `ragged`: rows differ in theirs.
        """
        if not self.graphs.enabled:
            self._arrange(owners, slots, pairs)
            length = self.cache.scratch if self._full else length
            shape = (len(owners), len(slots), length, sort)
            masked = ragged or self._full
            return Drawn(self._step(*shape, masked=masked, first_row=first_row, generators=generators), len(slots))
        shape = self.shape(len(owners), len(slots), length, sort)
        if shape not in self.graphs:
            self.capture(shape)
        self._arrange(owners, slots, pairs, shape[0], shape[1])
        return Drawn(self.graphs.run(shape, lambda: self._step(*shape, masked=True)), len(slots))

    def shape(self, rows: int, slots: int, length: int, sort: bool) -> Shape:
        """The captured shape that a step of so many rows, slots and places runs in."""
        streams = next(size for size in self.stream_sizes() if size >= max(slots, -(-rows // self.width)))
        wide = streams if rows <= streams else self.width * streams
        return wide, streams, next(size for size in self.lengths() if size >= length), sort

    def shapes(self) -> list[Shape]:
        """All that `shape` may give, the largest first."""
        width = self.width
        rows = sorted({(size * wide, size) for size in self.stream_sizes() for wide in (1, width)}, reverse=True)
        lengths = sorted(self.lengths(), reverse=True)
        return [(*own, length, sort) for own in rows for length in lengths for sort in (False, True)]

    @property
    def width(self) -> int:
        """Rows of a stream, at most."""
        return 2 if self.model.spec.cfg else 1

    def stream_sizes(self) -> list[int]:
        """1, 2, 4, 8, then by eights: the numbers of streams for which steps are captured."""
        most = self._switches.max_streams
        return sorted({size for size in (1, 2, 4, *range(8, most, 8)) if size < most} | {most})

    def lengths(self) -> list[int]:
        """Numbers of places for which steps are captured: by 128 up to 512, then by 256."""
        most = self.cache.scratch
        if self._full:
            return [most]
        return sorted({size for size in (*range(128, 513, 128), *range(768, most, 256)) if size < most} | {most})

    def capture(self, shape: Shape) -> None:
        """Capture the step of one shape, run over nobody's slot."""
        nobody = self.batch.nobody
        self._arrange([nobody] * shape[0], [nobody] * shape[1], [(0, 0)] * shape[1])
        self.graphs.capture(shape, lambda: self._step(*shape, masked=True))

    def _arrange(
        self, owners: list[int], slots: list[int], pairs: list[tuple[int, int]], rows: int = 0, wide: int = 0
    ) -> None:
        """Put a step's index tensors in their place, filled up with nobody to `rows` rows and `wide` slots."""
        wanted = (tuple(owners), tuple(slots), tuple(pairs), rows, wide)
        if wanted == self._arranged:
            return
        self._arranged = wanted
        nobody = self.batch.nobody
        owners = owners + [nobody] * (rows - len(owners))
        slots = slots + [nobody] * (wide - len(slots))
        pairs = pairs + [(0, 0)] * (wide - len(pairs))
        columns = [owners, slots, [pair[0] for pair in pairs], [pair[1] for pair in pairs]]
        most = self._index.shape[1]
        host = torch.tensor([column + [0] * (most - len(column)) for column in columns])
        if self.device.type == "cuda":
            host = host.pin_memory()
        self._index.copy_(host, non_blocking=True)

    def _step(
        self,
        rows: int,
        slots: int,
        length: int,
        sort: bool,
        *,
        masked: bool,
        first_row: int = 0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """The whole of a decode step, over tensors that stay in their place. Returns what `_draw` does."""
        batch = self.batch
        owners = self._index[0, :rows]
        positions = batch.lengths[owners][:, None]
        x = self.model.embed_speech(batch.tokens[owners], batch.steps[owners])
        follows = batch.guard is not None
        attention: Tensor | None
        if self._own is not None:
            placed = self.model.placed(x, positions[:, 0])
            hidden, attention = self._own(placed, positions[:, 0], first_row, length, follows)
        else:
            mask = torch.arange(length, device=self.device) <= positions[:, None, :, None] if masked else None
            with self._attention():
                made, attention = self.model(
                    x[:, None], positions, self.cache, torch.arange(first_row, first_row + rows, device=self.device),
                    slice(first_row, first_row + rows), length, mask, causal=False, aligned=follows,
                )  # fmt: skip
            hidden = made[:, 0]
        index = self._index[1:, :slots]
        logits = self.model.logits(hidden)
        return self._draw(index[0], index[1], index[2], logits, attention, sort, False, generators)

    def _draw(
        self,
        slots: Tensor,
        conditioned: Tensor,
        unconditioned: Tensor,
        logits: Tensor,
        attention: Tensor | None,
        sort: bool,
        first: bool,
        generators: Sequence[torch.Generator] | None,
    ) -> Tensor:
        """The next token of each slot, which advances by it, and where attention is followed its place: (1 or 2, S).
        Generators make the draws the reference's."""
        batch = self.batch
        places: tuple[Tensor, ...] = ()
        guided = guide(logits, conditioned, unconditioned, batch.cfg_weight[slots])
        if batch.guard is not None:
            assert attention is not None
            followed = attention.index_select(0, conditioned)
            places = (batch.guard.apply(guided, followed, slots, batch.tokens[slots]),)
        penalty_last = self.model.spec.penalty_last
        if self._own is not None and generators is None and not (sort or penalty_last):
            drawn = self._own.draw(guided, slots, batch.seen, batch.filters, batch.seeds, batch.steps)
        else:
            filters = batch.filters_of(slots)
            probabilities = process(guided, batch.seen[slots], filters, sort=sort, penalty_last=penalty_last)
            if generators is None:
                drawn = draw(probabilities, batch.seeds[slots], batch.steps[slots])
            else:
                pairs = zip(probabilities, generators, strict=True)
                drawn = torch.cat([draw_reference(own[None], generator) for own, generator in pairs])
        batch.advance(slots, drawn, first)
        return torch.stack((drawn, *places))


def _block(rows: Sequence[int], index: Tensor) -> slice | Tensor:
    """The rows as a slice where they lie side by side, so that they can be read without a copy."""
    adjacent = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    return slice(rows[0], rows[0] + len(rows)) if adjacent else index
