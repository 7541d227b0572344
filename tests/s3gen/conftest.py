"""The reference's S3Gen classes at a small depth, with random weights that keep signals at a size of about 1."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chatterbox_engine.spec import EncoderSpec, EstimatorSpec, S3GenSpec
from tests.interpreted import interpreted

TOLERANCE = 1e-4
SMALL = S3GenSpec(
    encoder=EncoderSpec(blocks=1, up_blocks=1),
    estimator=EstimatorSpec(mid_stages=1, stage_blocks=1),
)
MEANFLOW = SMALL.model_copy(update={"meanflow": True, "cfm_steps": 2})
MEL_BINS = SMALL.mel_bins
QUIET = 0.1
"""Scale of HiFT's last layer that keeps random weights' audio off the clamp."""


def randomize(module: nn.Module, seed: int) -> None:
    """Draw every parameter: matrices with 1/sqrt(fan-in), gains around 1, biases small but not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1 or name.endswith("original0"):  # gains, Snake's alpha, biases
            parameter.data = 0.1 * noise if name.endswith("bias") else 1.0 + 0.1 * noise
        elif name.endswith(("pos_bias_u", "pos_bias_v")):
            parameter.data = 0.3 * noise
        else:
            parameter.data = noise / math.sqrt(math.prod(parameter.shape[1:]))
    module.eval().requires_grad_(False)


def speak_in_turns(f0_predictor: Any, seed: int) -> Tensor:
    """Set an F0 predictor so that a mel frame of zeros is at 0 Hz and the one returned, (MEL_BINS,), at 200 Hz."""
    frame = torch.randn(MEL_BINS, generator=torch.Generator().manual_seed(seed))
    silent, voiced = (
        f0_predictor.condnet(f[None, :, None].expand(1, -1, 15))[0, :, 7].float() for f in (0 * frame, frame)
    )
    weight = 200.0 * (voiced - silent) / (voiced - silent).square().sum()
    f0_predictor.classifier.weight.data = weight[None]
    f0_predictor.classifier.bias.data = -(weight @ silent)[None]
    return frame


def speech_mel(frames: int, voiced: Tensor, seed: int) -> Tensor:
    """Mel (1, MEL_BINS, frames): of every 26 frames 12 sound like `voiced`, with variation, and 14 are silent.

    F0 sees 5 frames to each side, so 4 of the silent ones are surely at 0 Hz.
    """
    generator = torch.Generator().manual_seed(seed)
    sounding = (torch.arange(frames) % 26 < 12).float()
    pitch = 1.0 + 0.3 * torch.rand(frames, generator=generator)
    variation = 0.1 * torch.randn(MEL_BINS, frames, generator=generator)
    return ((voiced[:, None] * pitch + variation) * sounding)[None]


def assert_speech(f0: Tensor, audio: Tensor, limit: float = 0.99) -> None:
    """The signal has voiced and unvoiced frames, is audible, and is nowhere clamped."""
    voiced = f0 > 10.0
    assert 0.2 < voiced.float().mean() < 0.95
    assert 80.0 < f0[voiced].median() < 400.0
    assert audio.abs().max() < limit - 1e-3
    assert audio.std() > 0.02


@pytest.fixture(scope="session")
def reference_encoder() -> Any:
    from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder

    encoder = UpsampleConformerEncoder(num_blocks=1)
    encoder.up_encoders = encoder.up_encoders[:1]
    randomize(encoder, 1)
    return encoder


@pytest.fixture(scope="session", params=[SMALL, MEANFLOW], ids=["guided", "meanflow"])
def spec(request: pytest.FixtureRequest) -> S3GenSpec:
    """Both kinds of flow."""
    own: S3GenSpec = request.param
    return own


@pytest.fixture(scope="session")
def reference_estimator(spec: S3GenSpec) -> Any:
    from chatterbox.models.s3gen.decoder import ConditionalDecoder

    estimator = ConditionalDecoder(num_mid_blocks=1, n_blocks=1, meanflow=spec.meanflow)
    randomize(estimator, 2)
    return estimator


@pytest.fixture(scope="session")
def reference_flow(reference_encoder: Any, reference_estimator: Any) -> Any:
    from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
    from chatterbox.models.s3gen.flow_matching import CausalConditionalCFM

    decoder = CausalConditionalCFM(spk_emb_dim=80, estimator=reference_estimator)
    flow = CausalMaskedDiffWithXvec(encoder=reference_encoder, decoder=decoder)
    for layer, seed in ((flow.input_embedding, 3), (flow.spk_embed_affine_layer, 4), (flow.encoder_proj, 5)):
        randomize(layer, seed)
    return flow.eval()


@pytest.fixture(scope="session")
def reference_hift() -> Any:
    """The reference's vocoder in its real size; `.voiced` is a mel frame that it hears at 200 Hz."""
    from chatterbox.models.s3gen.f0_predictor import ConvRNNF0Predictor
    from chatterbox.models.s3gen.hifigan import HiFTGenerator

    hift = HiFTGenerator(
        sampling_rate=24_000,
        upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7],
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        f0_predictor=ConvRNNF0Predictor(),
    )
    randomize(hift, 6)
    hift.voiced = speak_in_turns(hift.f0_predictor, 7)
    hift.conv_post.parametrizations.weight.original0.data *= QUIET
    return hift


@pytest.fixture(scope="module")
def gpu_kernels() -> Iterator[ModuleType]:
    """S3Gen's, for tensors of tests.interpreted.DEVICE."""
    with interpreted():
        from chatterbox_engine.s3gen import triton_kernels

        yield triton_kernels
