"""S3Gen's two networks on one device."""

import torch

from chatterbox_engine.s3gen.flow import Flow
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.spec import S3GenSpec
from chatterbox_engine.weights import Weights, load


class S3GenModel:
    """The flow and the vocoder, on one device."""

    def __init__(
        self,
        spec: S3GenSpec,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        f0_dtype: torch.dtype = torch.float64,
    ) -> None:
        with torch.device("meta"):
            flow = Flow(spec)
        hift = HiFT(spec.hift, spec.mel_bins)  # small, and with buffers of its own
        load(flow, weights, "flow.", dtype)
        load(hift, weights, "mel2wav.")
        hift.f0_predictor.dtype = f0_dtype
        self.spec = spec
        self.flow = flow.to(device)
        self.hift = hift.to(device)
        self.device = device
        """Where it computes; while nobody asks for anything its weights may be elsewhere."""
        self.dtype = dtype

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.flow.to(device)
        self.hift.to(device)
