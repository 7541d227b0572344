"""HiFT, from the teacher's mels to its audio, by spectral distances at several resolutions."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.s3gen.hift import HiFT, initial_phases
from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_FRAME
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights
from training import dimensions, loop
from training.corpus import MEL_SPREAD, Corpus
from training.modules import begin

SEGMENT_FRAMES = 40
BATCH = 16
STEPS = 5000
MADE_FROM = 3000
"""The step from which on half of the windows have the flow's mels of the true tokens, instead of the teacher's."""
RATE = 1.5e-3
RESOLUTIONS = ((256, 60), (512, 120), (1024, 240), (2048, 480))
"""FFT sizes and hops of the distances (Parallel WaveGAN, 1910.11480)."""
READ_MELS = ("conv_pre.weight", "f0_predictor.condnet.0.weight")
"""What reads the mel: in training with a spread of 1, in a checkpoint with the mel's own."""
_FLOOR = 3e-3
"""Magnitudes below it are silence: what is there is not worth the weights."""
_QUIET = -2.0
"""Log magnitudes of the spectrum at first, about those of speech."""
_MIX = 0.3
"""Of each sine in the source at first, so that their sum is not clipped."""
_HZ = 50.0
"""Swing of the pitch predictor's output at first: small steps of its weights are to be steps of some Hz."""


def vocoder(seed: int = 3, start: Path | None = None) -> HiFT:
    """A HiFT of the bundled model's size, with fresh weights or a checkpoint's, for standardised mels."""
    spec = dimensions.spec().s3gen
    with torch.device("meta"):
        hift = HiFT(spec.hift, spec.mel_bins)
    if start is None:
        begin(hift, RandomWeights(seed))
    else:
        begin(hift, SafetensorsWeights(start / dimensions.spec().files.s3gen), "mel2wav.")
    hift.f0_predictor.dtype = torch.float32  # streams need float64 to stay equal over minutes; training does not
    with torch.no_grad():
        if start is not None:
            for name in READ_MELS:
                hift.get_parameter(name).mul_(MEL_SPREAD)
            return hift
        assert hift.conv_post.bias is not None
        hift.conv_post.bias[: spec.hift.n_fft // 2 + 1] = _QUIET
        hift.m_source.l_linear.weight.fill_(_MIX)
        hift.f0_predictor.classifier.weight.mul_(_HZ)
    return hift


def spectral_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean distance of magnitudes, logarithmic and relative, over RESOLUTIONS: both (B, N)."""
    total = made.new_zeros(())
    for size, hop in RESOLUTIONS:
        window = torch.hann_window(size, device=made.device)
        ours, theirs = (
            torch.stft(x, size, hop, window=window, return_complex=True).abs().clamp(min=_FLOOR) for x in (made, real)
        )
        relative = torch.linalg.vector_norm(theirs - ours) / torch.linalg.vector_norm(theirs)
        total = total + (theirs.log() - ours.log()).abs().mean() + relative
    return total / len(RESOLUTIONS)


def speak(hift: HiFT, mel: Tensor, f0: Tensor, seed: int) -> Tensor:
    """mel (B, 80, F), f0 (B, F) -> (B, 480 F), with phases and noise drawn from a seed."""
    return hift.decode(mel, _source(hift, f0, seed))


def _source(hift: HiFT, f0: Tensor, seed: int) -> Tensor:
    """`HiFT.source` of whole windows from (B, F) Hz, (B, 1, 480 F), at a fifth of its time.

    A window is too short to need its phases' sums in float64, and the harmonics' noises, which are added up with the
    mixer's weights, are one noise of those weights' norm.
    """
    spec, mixer = hift.spec, hift.m_source.l_linear
    seeds = torch.arange(len(f0)) + seed * len(f0)
    multiples = torch.arange(1, hift.harmonics + 1)[:, None]
    step = (2 * math.pi / SAMPLE_RATE) * f0[:, None] * multiples  # (B, H, F) radians a sample
    begin = (step.double().cumsum(-1) - step) * SAMPLES_PER_FRAME % (2 * math.pi)
    begin = begin.float() + initial_phases(seeds, hift.harmonics)[..., None]
    count = torch.arange(1.0, SAMPLES_PER_FRAME + 1)
    sines = torch.addcmul(begin[..., None], step[..., None], count).sin_().flatten(2)
    voiced = (f0 > spec.voiced_threshold).float().repeat_interleave(SAMPLES_PER_FRAME, 1)
    noise = torch.randn(voiced.shape, generator=torch.Generator().manual_seed(seed)) * mixer.weight.norm()
    noise = noise * (voiced * spec.noise_std + (1 - voiced) * (spec.sine_amplitude / 3))
    mixed = torch.matmul(mixer.weight[0], sines) * (voiced * spec.sine_amplitude) + noise
    return torch.tanh(mixed + mixer.bias)[:, None]


def quickened(hift: HiFT) -> None:
    """Compile the convolutions, with products in bf16, but for the last: its logarithms and phases are heard."""
    last = hift.conv_post.forward
    hift.conv_post.forward = torch.autocast("cpu", enabled=False)(lambda x: last(x.float()))  # type: ignore[method-assign]
    hift.convolve = torch.compile(loop.reduced()(hift.convolve))  # type: ignore[method-assign]


@dataclass(frozen=True)
class Batch:
    """Windows of F frames, B of them."""

    mel: Tensor
    """(B, 80, F) standardised."""
    f0: Tensor
    """(B, F) Hz, the teacher's."""
    wave: Tensor
    """(B, 480 F), the teacher's."""


class Windows:
    """Windows of the corpus, with the teacher's mels or with the flow's of the true tokens."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self._corpus = corpus
        self._audio = corpus.audio
        self._first = corpus.start(corpus.held_out)
        self._last = len(self._audio) // SAMPLES_PER_FRAME - SEGMENT_FRAMES
        self._made = np.load(folder / "mels.npy", mmap_mode="r")

    def trained(self, seed: int, rows: int, made: int) -> Batch:
        """`rows` of those that a stage trains on, `made` of them with the flow's mels."""
        return self._drawn(seed, self._first, self._last, rows - made, made)

    def held_out(self, seed: int, rows: int) -> Batch:
        return self._drawn(seed, 0, self._first - SEGMENT_FRAMES, rows, 0)

    def _drawn(self, seed: int, lowest: int, highest: int, own: int, made: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(lowest, highest, (own,), generator=generator).tolist()
        mels = [self._corpus.mel_at(start, SEGMENT_FRAMES) for start in starts]
        spoken = torch.randint(len(self._made) - SEGMENT_FRAMES, (made,), generator=generator).tolist()
        mels += [self._made[start : start + SEGMENT_FRAMES].astype(np.float32) for start in spoken]
        starts += [self._first + start for start in spoken]
        f0 = [torch.from_numpy(self._corpus.f0_at(start, SEGMENT_FRAMES)) for start in starts]
        return Batch(
            torch.stack([torch.from_numpy(mel) for mel in mels]).transpose(1, 2).contiguous(),
            torch.stack(f0),
            torch.stack([self._wave(start) for start in starts]),
        )

    def _wave(self, start: int) -> Tensor:
        samples = slice(start * SAMPLES_PER_FRAME, (start + SEGMENT_FRAMES) * SAMPLES_PER_FRAME)
        return torch.from_numpy(self._audio[samples].copy()).float() / 32768


def distances(hift: HiFT, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Of what is made of a batch, without the windows' ends, which lack context; and of the pitch."""
    made = speak(hift, batch.mel, batch.f0, seed)
    inner = slice(SAMPLES_PER_FRAME, -SAMPLES_PER_FRAME)
    spectral = spectral_distance(made[:, inner], batch.wave[:, inner])
    return {"spectral": spectral, "f0": F.l1_loss(hift.f0(batch.mel), batch.f0) / 100}


def run(corpus: Corpus, folder: Path, steps: int = STEPS, start: Path | None = None) -> None:
    """Train HiFT; its state is `folder/vocoder.pt`."""
    hift = vocoder(start=start)
    windows = Windows(corpus, folder)
    if steps >= loop.WORTH_COMPILING:
        quickened(hift)

    def losses(step: int) -> dict[str, Tensor]:
        batch = windows.trained(step, BATCH, BATCH // 2 if step >= MADE_FROM or start is not None else 0)
        return distances(hift, batch, step)

    def validate() -> dict[str, float]:
        parts = distances(hift, windows.held_out(0, BATCH), 0)
        return {name: float(value) for name, value in parts.items()}

    trained = [parameter for name, parameter in hift.named_parameters() if not name.startswith("stft")]
    loop.train(
        "vocoder", hift, losses, steps=steps, rate=RATE, folder=folder, log=dimensions.LOGS / "vocoder.jsonl",
        validate=validate, parameters=trained, weight_decay=0.0, continued=start is not None,
    )  # fmt: skip
