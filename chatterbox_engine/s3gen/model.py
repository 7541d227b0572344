"""S3Gen's two networks on one device."""

from typing import Any

import torch

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen import vocoder
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.native_solver import NativeSolver
from chatterbox_engine.s3gen.vocoder import Vocoder
from chatterbox_engine.spec import S3GenSpec, VocosSpec
from chatterbox_engine.weights import Weights, load


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
        self.vocoder: Vocoder[Any, Any] = (
            vocoder.hift(spec, weights, device, switches)
            if vocos is None
            else vocoder.vocos(*vocos, spec.mel_bins, device)
        )
        self.device = device
        """Where it computes; while nobody asks for anything its weights may be elsewhere."""
        self.dtype = dtype
        estimator = flow.decoder.estimator
        rounded = dtype == torch.bfloat16 or switches.precision == "auto"  # the kernels compute in 16 bits
        if switches.cpu_kernels == "auto" and rounded and NativeSolver.runs(estimator, spec):
            flow.solver = NativeSolver(estimator, spec)

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.flow.to(device)
        self.vocoder.network.to(device)
