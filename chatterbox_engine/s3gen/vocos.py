"""Vocos: mel spectrogram -> waveform, by ConvNeXt blocks at the mel's own rate and an inverse STFT.

Vocos (Siuzdak, 2306.00814): nothing is upsampled; the last layer says the magnitude and the phase of each frame's
bins, and the inverse STFT does the rest. Blocks are those of ConvNeXt (Liu et al., 2201.03545) over time. Parameters
carry the names of the package `vocos` (VocosBackbone as `backbone`, ISTFTHead with padding "same" as `head`), whose
convolutions see as much to the right as to the left; here `ahead` says how much, so that a stream waits for less.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.spec import VocosSpec

KERNEL = 7
"""Of every convolution."""
_EPS = 1e-6
_MAX_MAGNITUDE = 1e2


class _Block(nn.Module):
    """A convolution of each channel by itself, then an MLP of each frame, scaled and added to its input."""

    def __init__(self, spec: VocosSpec) -> None:
        super().__init__()
        self.padding = KERNEL - 1 - spec.ahead, spec.ahead
        self.dwconv = nn.Conv1d(spec.width, spec.width, KERNEL, groups=spec.width)
        self.norm = nn.LayerNorm(spec.width, eps=_EPS)
        self.pwconv1 = nn.Linear(spec.width, spec.mlp_width)
        self.pwconv2 = nn.Linear(spec.mlp_width, spec.width)
        self.gamma = nn.Parameter(torch.full((spec.width,), 1.0 / spec.layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, F) -> (B, W, F)"""
        hidden = self.dwconv(F.pad(x, self.padding)).transpose(1, 2)
        hidden = self.pwconv2(F.gelu(self.pwconv1(self.norm(hidden))))
        return x + (self.gamma * hidden).transpose(1, 2)


class _Backbone(nn.Module):
    def __init__(self, spec: VocosSpec, mel_bins: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(mel_bins, spec.width, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(spec.width, eps=_EPS)
        self.convnext = nn.ModuleList(_Block(spec) for _ in range(spec.layers))
        self.final_layer_norm = nn.LayerNorm(spec.width, eps=_EPS)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, mel_bins, F) -> (B, F, W)"""
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))


class _Head(nn.Module):
    """Logarithms of magnitudes and phases of each frame's bins, and the inverse STFT of them."""

    def __init__(self, spec: VocosSpec) -> None:
        super().__init__()
        self.n_fft, self.hop = spec.n_fft, spec.hop
        self.out = nn.Linear(spec.width, spec.n_fft + 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, W) -> (B, hop F)"""
        log_magnitude, phase = self.out(x).chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=_MAX_MAGNITUDE), phase)
        window = torch.hann_window(self.n_fft, device=x.device)
        waves = torch.fft.irfft(spectrum, self.n_fft) * window
        return self._overlapped(waves) / self._overlapped(window.square().expand(1, x.shape[1], -1))

    def _overlapped(self, waves: Tensor) -> Tensor:
        """Frames' waves (B, F, n_fft), each a hop after the one before, added up: (B, hop F).

        What the first and the last reach beyond their hops' middle part is cut off ("same" padding).
        """
        rows, frames, _ = waves.shape
        hops = self.n_fft // self.hop
        parts = waves.unflatten(-1, (hops, self.hop))
        total = waves.new_zeros(rows, frames + hops - 1, self.hop)
        for index in range(hops):
            total[:, index : index + frames] += parts[:, :, index]
        trim = (self.n_fft - self.hop) // 2
        return total.flatten(1)[:, trim : trim + frames * self.hop]


class Vocos(nn.Module):
    """The vocoder: F frames of mel become F * hop samples, which are clipped at 1. Without a source or a seed."""

    def __init__(self, spec: VocosSpec, mel_bins: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = _Backbone(spec, mel_bins)
        self.head = _Head(spec)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, mel_bins, F) -> (B, hop F)"""
        return self.head(self.backbone(mel)).clamp(-1.0, 1.0)
