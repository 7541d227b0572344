"""What turns S3Gen's mels into waveforms: HiFT or Vocos, each a network and its way over mels that grow."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from chatterbox_engine.accel.graphs import Graphs, Recurring
from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen import hift_stream, vocos_stream
from chatterbox_engine.s3gen.hift import HiFT
from chatterbox_engine.s3gen.native_decoder import NativeDecoder
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.spec import S3GenSpec, VocosSpec
from chatterbox_engine.weights import Weights, load

logger = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)
Stream = TypeVar("Stream")


@dataclass(frozen=True, slots=True)
class Vocoder(Generic[Network, Stream]):
    """A network, and how an utterance goes through it piece by piece."""

    network: Network
    open: Callable[[int], Stream]
    """Begin an utterance of a seed. A stream's size does not grow with its length."""
    run: Callable[[Network, Sequence[Stream], Sequence[Tensor], Sequence[bool]], list[Tensor]]
    """`advance`, of a network."""

    def advance(self, streams: Sequence[Stream], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
        """Take in new mel frames (mel_bins, n) of each stream and give out the samples (n,) that they settle.

        However an utterance is cut into calls, and whatever other streams share them, its samples in a row are those of
        an offline pass: SAMPLES_PER_FRAME a frame. `final`: it ends here, and all its samples come out.

        Raises ValueError where a stream was finished before; no stream is changed then.
        """
        return self.run(self.network, streams, mels, final)


def hift(
    spec: S3GenSpec, weights: Weights, device: torch.device, switches: S3GenSwitches, graphs: Graphs
) -> Vocoder[HiFT, hift_stream.HiFTStream]:
    """The model's own. Raises ModelUnavailable."""
    network = HiFT(spec.hift, spec.mel_bins)  # small, and with buffers of its own
    load(network, weights, "mel2wav.")
    network.f0_predictor.dtype = torch.float32 if switches.f0_precision == "fp32" else torch.float64
    network.to(device)
    wanted = switches.hift_precision
    if switches.cpu_kernels == "auto" and wanted != "fp32" and NativeDecoder.runs(network):
        network.native = NativeDecoder(network, exact=wanted != "bf16")
    elif wanted == "bf16":
        network.cast_decoder(torch.bfloat16)
    elif wanted == "bf16x3":
        logger.warning("hift_precision: bf16x3 needs a CPU with AMX and s3gen.cpu_kernels auto; HiFT stays in fp32.")
    if graphs.enabled:
        network.captured = Recurring("hift", network.convolve, graphs)
    return Vocoder(network, hift_stream.HiFTStream, hift_stream.advance)


def vocos(
    spec: VocosSpec, weights: Weights, mel_bins: int, device: torch.device
) -> Vocoder[Vocos, vocos_stream.VocosStream]:
    """One that was trained for the model's mels. Raises ModelUnavailable."""
    with torch.device("meta"):
        network = Vocos(spec, mel_bins)
    load(network, weights)
    return Vocoder(network.to(device), lambda seed: vocos_stream.VocosStream(), vocos_stream.advance)
