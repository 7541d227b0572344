"""S3Gen's two networks on one device."""

import logging
from types import ModuleType
from typing import Any

import torch

from chatterbox_engine.accel.compile import compiled
from chatterbox_engine.accel.device import set_convolutions
from chatterbox_engine.accel.gpu_kernels import tried
from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.accel.memory import free_bytes
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen import vocoder
from chatterbox_engine.s3gen.chunk_encoder import PagedEncoder
from chatterbox_engine.s3gen.flow import Flow, FlowPast
from chatterbox_engine.s3gen.native_solver import NativeSolver
from chatterbox_engine.s3gen.paged import Pages
from chatterbox_engine.s3gen.paged_solver import PagedSolver
from chatterbox_engine.s3gen.room import Room
from chatterbox_engine.s3gen.solver import EulerSolver
from chatterbox_engine.s3gen.vocoder import Vocoder
from chatterbox_engine.spec import S3GenSpec, VocosSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN
from chatterbox_engine.weights import Weights, load

logger = logging.getLogger(__name__)

_MOST_GRAPHS = 96
"""Captured: of an Euler step some 1,500 kernels, of the others fewer."""


def keep_pages(flow: Flow, graphs: Graphs, kernels: ModuleType) -> None:
    """From now on the flow's chunks go on from pages. `kernels`: the module `triton_kernels`, which must run there."""
    flow.solver = PagedSolver(flow.decoder.estimator, flow.spec, graphs, kernels)
    flow.chunks = PagedEncoder(flow.encode_next, flow.encoder, graphs, kernels)


class S3GenModel:
    """The flow and the vocoder, on one device."""

    def __init__(
        self,
        spec: S3GenSpec,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        switches: S3GenSwitches | None = None,
        vocos: tuple[VocosSpec, Weights] | None = None,
    ) -> None:
        """`dtype` is the flow's; `vocos` speaks instead of HiFT, which is not loaded then. Raises ModelUnavailable."""
        switches = switches or S3GenSwitches(precision="bf16" if dtype == torch.bfloat16 else "fp32")
        with torch.device("meta"):
            flow = Flow(spec)
        load(flow, weights, "flow.", dtype)
        self.spec = spec
        self.flow = flow.to(device)
        if device.type == "cuda":
            set_convolutions(switches.precision)
        self.graphs = Graphs(device, switches.cuda_graphs, _MOST_GRAPHS)
        self.vocoder: Vocoder[Any, Any] = (
            vocoder.hift(spec, weights, device, switches, self.graphs)
            if vocos is None
            else vocoder.vocos(*vocos, spec.mel_bins, device)
        )
        self.device = device
        """Where it computes; while nobody asks for anything its weights may be elsewhere."""
        self.dtype = dtype
        estimator = flow.decoder.estimator
        if NativeSolver.runs(spec, switches, dtype, device):
            flow.solver = NativeSolver(estimator, spec)
        if self.graphs.enabled:
            flow.solver = EulerSolver(estimator, spec, self.graphs)
            flow.captured = Recurring("encoder", flow.encode, self.graphs)
        if device.type == "cuda" and switches.goes_on(spec.chunked) and switches.gpu_kernels == "auto":
            self._keep_pages()
        if switches.compile != "off":
            self._compile(switches)

    def _keep_pages(self) -> None:
        """Where the GPU's own kernels fit the model and run here; if they don't run, that is said."""
        flow, spec = self.flow, self.spec
        if not all(map(Pages.fit, (spec.encoder.width // spec.encoder.heads, spec.estimator.head_width))):
            return

        def heard() -> FlowPast:
            from chatterbox_engine.s3gen import triton_kernels

            keep_pages(flow, self.graphs, triton_kernels)
            return self._hear_silence()

        before = flow.solver, flow.chunks
        if tried("gpu_kernels: S3Gen's", self.device, heard) is None:
            flow.solver, flow.chunks = before

    @torch.inference_mode()
    def _hear_silence(self) -> FlowPast:
        """Every kernel once: a token of one Euler step."""
        spec = self.spec
        prompt = torch.zeros(1, 1 + spec.encoder.lookahead, dtype=torch.int64, device=self.device)
        feat = torch.zeros(1, FRAMES_PER_TOKEN * prompt.shape[1], spec.mel_bins, dtype=self.dtype, device=self.device)
        speaker = torch.ones(1, spec.speaker_width, dtype=self.dtype, device=self.device)
        return self.flow.hear(prompt, feat, speaker, steps=1)

    def _compile(self, switches: S3GenSwitches) -> None:
        if switches.goes_on(self.spec.chunked):
            logger.warning("s3gen.compile: chunked attention keeps tensors between calls; the flow runs eagerly.")
            return
        for block in self.flow.decoder.estimator.blocks():
            block.forward = compiled(block.forward, switches.compile, "the flow's blocks")

    def room(self, switches: S3GenSwitches) -> Room | None:
        """For what chunked attention keeps of streams; None where it is not taken, and nothing grows with them."""
        if not switches.goes_on(self.spec.chunked):
            return None
        solver = self.flow.solver
        short = isinstance(solver, NativeSolver) or self.dtype != torch.float32
        kept = self.spec.second_bytes(switches.cfm_steps, 2 if short else 4)
        return Room.of(switches, kept, isinstance(solver, NativeSolver | PagedSolver), lambda: free_bytes(self.device))

    @property
    def kernels(self) -> str:
        """What the flow runs on, in words."""
        if isinstance(self.flow.solver, NativeSolver):
            return "the engine's own CPU kernels"
        own = " and the engine's own GPU kernels" if isinstance(self.flow.solver, PagedSolver) else ""
        return f"{'CUDA graphs of ' if self.graphs.enabled else ''}PyTorch's operators{own}"

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.graphs.clear()
        self.flow.to(device)
        self.vocoder.network.to(device)
