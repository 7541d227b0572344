"""HiFT, from the teacher's mels to its audio, by spectral distances at several resolutions."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.s3gen.hift import HiFT, initial_phases
from chatterbox_engine.types import SAMPLES_PER_FRAME
from training import dimensions, loop
from training.corpus import Corpus
from training.modules import fresh

SEGMENT_FRAMES = 40
BATCH = 16
STEPS = 4600
MADE_FROM = 2900
"""The step from which on half of the windows have the flow's mels of the true tokens, instead of the teacher's."""
RATE = 1.5e-3
RESOLUTIONS = ((256, 60), (512, 120), (1024, 240), (2048, 480))
"""FFT sizes and hops of the distances (Parallel WaveGAN, 1910.11480)."""
_FLOOR = 3e-3
"""Magnitudes below it are silence: what is there is not worth the weights."""
_QUIET = -2.0
"""Log magnitudes of the spectrum at first, about those of speech."""
_MIX = 0.3
"""Of each sine in the source at first, so that their sum is not clipped."""
_HZ = 50.0
"""Swing of the pitch predictor's output at first: small steps of its weights are to be steps of some Hz."""


def vocoder(seed: int = 3) -> HiFT:
    """A HiFT of the bundled model's size with fresh weights."""
    spec = dimensions.spec().s3gen
    with torch.device("meta"):
        hift = HiFT(spec.hift, spec.mel_bins)
    fresh(hift, seed)
    hift.f0_predictor.dtype = torch.float32  # streams need float64 to stay equal over minutes; training does not
    with torch.no_grad():
        assert hift.conv_post.bias is not None
        hift.conv_post.bias[: spec.hift.n_fft // 2 + 1] = _QUIET
        hift.m_source.l_linear.weight.fill_(_MIX)
        hift.f0_predictor.classifier.weight.mul_(_HZ)
    return hift


def spectral_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean distance of magnitudes, logarithmic and relative, over RESOLUTIONS: both (B, N)."""
    total = made.new_zeros(())
    for size, hop in RESOLUTIONS:
        window = torch.hann_window(size)
        ours, theirs = (
            torch.stft(x, size, hop, window=window, return_complex=True).abs().clamp(min=_FLOOR) for x in (made, real)
        )
        relative = torch.linalg.vector_norm(theirs - ours) / torch.linalg.vector_norm(theirs)
        total = total + (theirs.log() - ours.log()).abs().mean() + relative
    return total / len(RESOLUTIONS)


def speak(hift: HiFT, mel: Tensor, f0: Tensor, seed: int) -> Tensor:
    """mel (B, 80, F), f0 (B, F) -> (B, 480 F), with phases and noise drawn from a seed."""
    rows, frames = f0.shape
    offsets = initial_phases(torch.arange(rows) + seed * rows, hift.harmonics)
    noise = torch.randn(rows, hift.harmonics, frames * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(seed))
    source, _ = hift.source(f0, torch.zeros(rows, hift.harmonics, dtype=torch.float64), offsets, noise)
    return hift.decode(mel, source)


def run(corpus: Corpus, folder: Path, steps: int = STEPS) -> None:
    """Train HiFT; its state is `folder/vocoder.pt`."""
    hift = vocoder()
    audio = corpus.audio
    first, last = corpus.start(corpus.held_out), len(audio) // SAMPLES_PER_FRAME - SEGMENT_FRAMES
    made = np.load(folder / "mels.npy", mmap_mode="r")

    def batch(generator: torch.Generator, lowest: int, highest: int, own: int) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of the corpus, `own` of them with the flow's mels."""
        starts = torch.randint(lowest, highest, (BATCH - own,), generator=generator).tolist()
        mels = [corpus.mel_at(start, SEGMENT_FRAMES) for start in starts]
        spoken = torch.randint(len(made) - SEGMENT_FRAMES, (own,), generator=generator).tolist()
        mels += [made[start : start + SEGMENT_FRAMES].astype(np.float32) for start in spoken]
        starts += [first + start for start in spoken]
        mel = torch.stack([torch.from_numpy(mel) for mel in mels])
        f0 = torch.stack([torch.from_numpy(corpus.f0_at(start, SEGMENT_FRAMES)) for start in starts])
        wave = [
            torch.from_numpy(audio[start * SAMPLES_PER_FRAME : (start + SEGMENT_FRAMES) * SAMPLES_PER_FRAME].copy())
            for start in starts
        ]
        return mel.transpose(1, 2).contiguous(), f0, torch.stack(wave).float() / 32768

    def distances(mel: Tensor, f0: Tensor, wave: Tensor, seed: int) -> dict[str, Tensor]:
        pitch = hift.f0(mel)
        made = speak(hift, mel, f0, seed)
        edge = SAMPLES_PER_FRAME  # the window's ends lack context
        spectral = spectral_distance(made[:, edge:-edge], wave[:, edge:-edge])
        return {"spectral": spectral, "f0": F.l1_loss(pitch, f0) / 100}

    def losses(step: int) -> dict[str, Tensor]:
        own = BATCH // 2 if step >= MADE_FROM else 0
        return distances(*batch(torch.Generator().manual_seed(step), first, last, own), step)

    def validate() -> dict[str, float]:
        parts = distances(*batch(torch.Generator().manual_seed(0), 0, first - SEGMENT_FRAMES, 0), 0)
        return {name: float(value) for name, value in parts.items()}

    trained: list[nn.Parameter] = [p for n, p in hift.named_parameters() if not n.startswith("stft")]
    loop.train(
        "vocoder", hift, losses, steps=steps, rate=RATE, folder=folder, log=dimensions.LOGS / "vocoder.jsonl",
        validate=validate, parameters=trained, weight_decay=0.0,
    )  # fmt: skip
