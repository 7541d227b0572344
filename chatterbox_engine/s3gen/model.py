"""S3Gen's two networks on one device."""

import logging
from typing import Any

import torch

from chatterbox_engine.accel.compile import compiled
from chatterbox_engine.accel.device import set_convolutions
from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen import vocoder
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.native_solver import NativeSolver
from chatterbox_engine.s3gen.paged_solver import PagedSolver
from chatterbox_engine.s3gen.solver import EulerSolver
from chatterbox_engine.s3gen.vocoder import Vocoder
from chatterbox_engine.spec import S3GenSpec, VocosSpec
from chatterbox_engine.weights import Weights, load

logger = logging.getLogger(__name__)

_MOST_GRAPHS = 96
"""Captured: of an Euler step some 1,500 kernels, of the others fewer."""


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
        rounded = dtype == torch.bfloat16 or switches.precision == "auto"  # the kernels compute in 16 bits
        plain = switches.cpu_kernels == "plain" or switches.compile != "off"
        if rounded and not plain and NativeSolver.runs(estimator, spec):
            flow.solver = NativeSolver(estimator, spec)
        if self.graphs.enabled:
            flow.solver = EulerSolver(estimator, spec, self.graphs)
            flow.captured = Recurring("encoder", flow.encode, self.graphs)
        if switches.goes_on(spec.chunked) and switches.gpu_kernels == "auto":
            flow.solver = PagedSolver.of(estimator, spec, self.graphs) or flow.solver
        if switches.compile != "off":
            self._compile(switches)

    def _compile(self, switches: S3GenSwitches) -> None:
        if switches.goes_on(self.spec.chunked):
            logger.warning("s3gen.compile: chunked attention keeps tensors between calls; the flow runs eagerly.")
            return
        for block in self.flow.decoder.estimator.blocks():
            block.forward = compiled(block.forward, switches.compile, "the flow's blocks")

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
