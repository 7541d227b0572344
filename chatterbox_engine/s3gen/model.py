"""S3Gen's two networks on one device."""

import logging

import torch

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.s3gen.native_decoder import NativeDecoder
from chatterbox_engine.s3gen.native_solver import NativeSolver
from chatterbox_engine.spec import S3GenSpec
from chatterbox_engine.weights import Weights, load

logger = logging.getLogger(__name__)


class S3GenModel:
    """The flow and the vocoder, on one device."""

    def __init__(
        self,
        spec: S3GenSpec,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        switches: S3GenSwitches | None = None,
    ) -> None:
        """`dtype` is the flow's."""
        switches = switches or S3GenSwitches()
        with torch.device("meta"):
            flow = Flow(spec)
        hift = HiFT(spec.hift, spec.mel_bins)  # small, and with buffers of its own
        load(flow, weights, "flow.", dtype)
        load(hift, weights, "mel2wav.")
        hift.f0_predictor.dtype = torch.float32 if switches.f0_precision == "fp32" else torch.float64
        self.spec = spec
        self.flow = flow.to(device)
        self.hift = hift.to(device)
        self.device = device
        """Where it computes; while nobody asks for anything its weights may be elsewhere."""
        self.dtype = dtype
        own = switches.cpu_kernels == "auto"
        estimator = flow.decoder.estimator
        if own and NativeSolver.runs(estimator, spec):
            flow.solver = NativeSolver(estimator, spec)
        _cast(hift, switches, own and NativeDecoder.runs(hift))

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.flow.to(device)
        self.hift.to(device)


def _cast(hift: HiFT, switches: S3GenSwitches, native: bool) -> None:
    """Bring HiFT's convolutions into the precision wanted, by the engine's own kernels where they run."""
    wanted = switches.hift_precision
    if native and wanted != "fp32":
        hift.native = NativeDecoder(hift, exact=wanted != "bf16")
    elif wanted == "bf16":
        hift.cast_decoder(torch.bfloat16)
    elif wanted == "bf16x3":
        logger.warning("hift_precision: bf16x3 needs a CPU with AMX and s3gen.cpu_kernels auto; HiFT stays in fp32.")
