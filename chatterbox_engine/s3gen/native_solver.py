"""Euler's method by the CPU's own kernels: all steps in one call, over packed weights."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native import pointer
from chatterbox_engine.accel.native_linear import NativeLinear, ShortLinear
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.pages import PAGE, Page, PagedPast
from chatterbox_engine.s3gen.solver import SolverPast, embedded_times, step_times
from chatterbox_engine.spec import S3GenSpec

_WHOLE = 32
"""Numbers that fill a tile's row."""


class NativeSolver:
    """`EulerSolver` over weights and rows in 16 bits, activations in fp32 between the products, and sums in fp32.

    The 16 bits are bf16 with AMX; with AVX2 whole numbers, that share a scale (native/avx2_shorts.h).
    """

    def __init__(self, estimator: Estimator, spec: S3GenSpec) -> None:
        kernels = native.kernels()
        assert kernels is not None
        self._kernels = kernels
        self._shorts = native.number_dtype(kernels) == torch.float32
        self._estimator = estimator
        self._spec = spec
        self._kept = native.Kept()
        self._times: dict[int, tuple[Tensor, Tensor]] = {}
        stages = [*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks]
        resnets = [self._resnet(stage.get_submodule("0")) for stage in stages]
        layers = [self._layer(block) for stage in stages for block in stage.get_submodule("1").children()]
        down, up = (self._conv(ends[0].get_submodule("2")) for ends in (estimator.down_blocks, estimator.up_blocks))
        own = spec.estimator
        self._struct = native.Estimator(
            spec.mel_bins, own.width, own.heads, own.head_width, len(stages), own.stage_blocks, int(not spec.meanflow),
            spec.cfg_rate, (native.Resnet * len(resnets))(*resnets), (native.Layer * len(layers))(*layers), down, up,
            self._conv_block(estimator.final_block), self._conv(estimator.final_proj),
        )  # fmt: skip
        self._adds = [stage.get_submodule("0.mlp.1") for stage in stages]
        self._layers = len(layers)
        self._sequences = 1 if spec.meanflow else 2
        kernels.flow_tail.restype = kernels.flow_plane.restype = ctypes.c_int64
        self._tail = int(kernels.flow_tail(ctypes.byref(self._struct)))
        self._plane = int(kernels.flow_plane(ctypes.byref(self._struct)))

    @staticmethod
    def runs(spec: S3GenSpec, switches: S3GenSwitches, dtype: torch.dtype, device: torch.device) -> bool:
        """The kernels are there and asked for, and fit the model."""
        own = spec.estimator
        fits = not any(size % _WHOLE for size in (own.width, own.head_width, 4 * spec.mel_bins)) and own.stage_blocks
        rounded = dtype == torch.bfloat16 or switches.precision == "auto"  # they compute in 16 bits
        wanted = switches.cpu_kernels == "auto" and switches.compile == "off" and rounded and device.type == "cpu"
        return bool(fits and not spec.mel_bins % 16 and wanted) and native.multiplies_rows()

    def __call__(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, steps: int, *, ends: Tensor | None = None
    ) -> Tensor:
        batch, _, longest = x.shape
        counts = [longest] * batch if ends is None else ends.tolist()
        heads = self._sequences * self._spec.estimator.heads
        pages = [[Page(torch.zeros(heads, self._plane, dtype=torch.uint8), -1) for _ in range(-(-count // PAGE))]
                 for count in counts]  # fmt: skip
        for own, count in zip(pages, counts, strict=True):
            own[-1].there = (1 << (count - 1) % PAGE + 1) - 1
        nothing = native.pointer(None)
        given = [(count, own, 0, nothing) for count, own in zip(counts, pages, strict=True)]
        return self._solve(x, mu, speaker, cond, steps, given, 0, 0)

    def begin(self, steps: int) -> SolverPast:
        return PagedPast(torch.zeros(steps, self._sequences, self._tail, dtype=torch.bfloat16))

    def go_on(
        self, x: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, counts: Sequence[int], pasts: Sequence[SolverPast]
    ) -> Tensor:
        own = [past for past in pasts if isinstance(past, PagedPast)]
        steps = len(own[0].before)
        layer = self._sequences * self._spec.estimator.heads * self._plane
        given = []
        for past, count in zip(own, counts, strict=True):
            first = past.grow(count, (steps, self._layers, layer))
            given.append((count, past.pages, first, pointer(past.before)))
        return self._solve(x, mu, speaker, cond, steps, given, self._layers * layer, layer)

    def _solve(
        self,
        x: Tensor,
        mu: Tensor,
        speaker: Tensor,
        cond: Tensor,
        steps: int,
        given: list[tuple[int, list[Page], int, ctypes.c_void_p]],
        step_bytes: int,
        layer_bytes: int,
    ) -> Tensor:
        time, size = self._time(steps)
        mel = x.transpose(1, 2).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        mu, cond = (frames.transpose(1, 2).float().contiguous() for frames in (mu, cond))
        speaker = speaker.float().contiguous()
        speech = [
            native.Speech(
                count, (native.Page * len(pages))(*(native.Page(page.memory.data_ptr(), page.there) for page in pages)),
                len(pages), first, before, *(pointer(part[row]) for part in (mel, mu, cond, speaker)),
            )
            for row, (count, pages, first, before) in enumerate(given)
        ]  # fmt: skip
        call = native.Solve(
            len(speech), steps, (native.Speech * len(speech))(*speech), pointer(time), pointer(size),
            step_bytes, layer_bytes, self._plane,
        )  # fmt: skip
        if self._kernels.solve(ctypes.byref(self._struct), ctypes.byref(call)) != 0:
            raise MemoryError("The flow's activations do not fit in memory.")
        return mel.transpose(1, 2).to(x.dtype)

    def _time(self, steps: int) -> tuple[Tensor, Tensor]:
        """What each resnet adds at each step (steps, stages, width), and the steps' sizes (steps,)."""
        if steps not in self._times:
            times = step_times(self._spec, steps, torch.device("cpu"))
            embedded = embedded_times(self._estimator, self._spec, times)
            added = torch.stack([add(embedded) for add in self._adds], dim=1).float().contiguous()
            self._times[steps] = added, times.diff().contiguous()
        return self._times[steps]

    def _linear(self, weight: Tensor, bias: Tensor | None) -> native.Linear:
        made = ShortLinear(weight, bias) if self._shorts else NativeLinear(weight, bias, 0)
        self._kept.keep(made)
        return made.struct

    def _conv(self, conv: nn.Module) -> native.Linear:
        """The inputs of each frame of its window, one after the other."""
        assert isinstance(conv, nn.Conv1d)
        return self._linear(conv.weight.transpose(1, 2).flatten(1), conv.bias)

    def _conv_block(self, block: nn.Module) -> native.ConvBlock:
        return native.ConvBlock(
            self._conv(block.get_submodule("block.0")), *self._kept.norm(block.get_submodule("block.2"))
        )

    def _resnet(self, resnet: nn.Module) -> native.Resnet:
        blocks = (self._conv_block(resnet.get_submodule(name)) for name in ("block1", "block2"))
        return native.Resnet(*blocks, self._conv(resnet.get_submodule("res_conv")))

    def _layer(self, block: nn.Module) -> native.Layer:
        part = block.get_parameter
        qkv = torch.cat([part(f"attn1.to_{name}.weight") for name in "qkv"])
        names = ("attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
        rest = (self._linear(part(f"{name}.weight"), part(f"{name}.bias")) for name in names)
        norms = (each for name in ("norm1", "norm3") for each in self._kept.norm(block.get_submodule(name)))
        return native.Layer(self._linear(qkv, None), *rest, *norms)
