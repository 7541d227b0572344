"""HiFT: mel spectrogram -> waveform, by a neural source filter and an inverse STFT.

HiFTNet (Li et al., 2309.09493): an F0 predictor, a source of harmonic sines (NSF: Wang et al., 1904.12088), and a
HiFi-GAN (2010.05646) that upsamples the mel, adds the source's spectrogram at each rate and ends in an inverse STFT.
Parameters carry the names of the reference's `mel2wav.*`, with weight norm folded into `weight`.
"""

import ctypes
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel import noise as positional
from chatterbox_engine.accel.graphs import Recurring
from chatterbox_engine.s3gen.native_decoder import NativeDecoder
from chatterbox_engine.spec import HiFTSpec
from chatterbox_engine.types import SAMPLE_RATE
from chatterbox_engine.weights import StateDictWeights, load

EDGE_KERNEL = 7
"""Kernel of the first and of the last convolution."""
F0_LAYERS = 5
F0_KERNEL = 3
_MAX_MAGNITUDE = 1e2


def initial_phases(seeds: Tensor, harmonics: int) -> Tensor:
    """Phases at which an utterance's sines begin, functions of (seed, harmonic) alone.

    Args:
        seeds: (B,) int64.
        harmonics: sines, the fundamental included.

    Returns:
        (B, harmonics) float32 radians in (-pi, pi); the fundamental's is 0.
    """
    places = torch.arange(harmonics, device=seeds.device).expand(len(seeds), -1)
    phases = (2.0 * math.pi) * (positional.uniform(seeds, positional.Domain.PHASE, places) - 0.5)
    phases[:, 0] = 0.0
    return phases.float()


def source_noise(seeds: Tensor, start_samples: Tensor, samples: int, harmonics: int) -> Tensor:
    """The source's noise, a function of (seed, sample, harmonic) alone.

    Args:
        seeds: (B,) int64.
        start_samples: (B,) int64, the number in its utterance of each row's first sample.
        samples: how many.
        harmonics: sines, the fundamental included.

    Returns:
        (B, harmonics, samples) float32, standard normal.
    """
    made = positional.normals(seeds, positional.Domain.SOURCE, start_samples * harmonics, samples * harmonics)
    return made.unflatten(1, (samples, harmonics)).transpose(1, 2)


class _F0Predictor(nn.Module):
    """Convolutions over the mel, in `dtype`, whatever the dtype of the weights.

    In float32, as the reference computes it, F0 differs by 1e-7 from one window's shape to another. The source's phase
    sums that up, so that after 8 s a streamed utterance is 2e-3 off its offline pass; in float64 it stays within 1e-5,
    for 2 ms more a call.
    """

    def __init__(self, mel_bins: int, width: int) -> None:
        super().__init__()
        self.dtype = torch.float64
        layers: list[nn.Module] = []
        for inputs in (mel_bins, *(width for _ in range(F0_LAYERS - 1))):
            layers += [nn.Conv1d(inputs, width, F0_KERNEL, padding=F0_KERNEL // 2), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, mel_bins, F) -> Hz (B, F) float32"""
        tensors = {name: tensor.to(self.dtype) for name, tensor in self.named_parameters()}
        hidden = mel.to(self.dtype)
        for index in range(0, 2 * F0_LAYERS, 2):
            weight, bias = tensors[f"condnet.{index}.weight"], tensors[f"condnet.{index}.bias"]
            hidden = F.elu(F.conv1d(hidden, weight, bias, padding=F0_KERNEL // 2))
        hidden = F.linear(hidden.transpose(1, 2), tensors["classifier.weight"], tensors["classifier.bias"])
        return hidden.squeeze(-1).abs().float()


class _Source(nn.Module):
    """Mixes the sines into one source signal."""

    def __init__(self, harmonics: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(harmonics, 1)

    def forward(self, waves: Tensor) -> Tensor:
        """waves (B, H, N) -> (B, 1, N)"""
        return torch.tanh(torch.matmul(self.l_linear.weight, waves) + self.l_linear.bias)


class _Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha (Ziyin et al., 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return torch.sin(x * alpha).square_().mul_(1.0 / (alpha + 1e-9)).add_(x)


class _ResBlock(nn.Module):
    """For each dilation, two convolutions behind Snakes, added to their input."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(_Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(_Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in layers:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class _STFT(nn.Module):
    """Short-time Fourier transform with a periodic Hann window, centred, and its inverse, as convolutions.

    torch.istft would copy to the host at each call to check its window. The bases are buffers that no checkpoint has;
    they are made on the CPU even where modules are built on the meta device.
    """

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        with torch.device("cpu"):
            window = torch.hann_window(n_fft, dtype=torch.float64)
            bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None]
            angle = (2.0 * math.pi / n_fft) * bins * torch.arange(n_fft, dtype=torch.float64)
            waves = torch.cat((angle.cos(), -angle.sin())) * window
            # A real signal's bins stand for two each, but for the first and the last.
            share = torch.full((n_fft // 2 + 1, 1), 2.0 / n_fft, dtype=torch.float64)
            share[0] = share[-1] = 1.0 / n_fft
            inverse = waves * torch.cat((share, share))
        self.register_buffer("analysis", waves.float()[:, None], persistent=False)  # (n_fft + 2, 1, n_fft)
        self.register_buffer("synthesis", inverse.float()[:, None], persistent=False)
        self.register_buffer("power", window.square().float()[None, None], persistent=False)  # (1, 1, n_fft)

    def forward(self, signal: Tensor) -> Tensor:
        """signal (B, 1, N) -> real parts, then imaginary parts (B, n_fft + 2, N / hop + 1)"""
        padded = F.pad(signal, (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        return F.conv1d(padded, self.analysis, stride=self.hop)  # type: ignore[arg-type]

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Real, then imaginary parts (B, n_fft + 2, M) -> signal (B, hop (M - 1))"""
        trim = self.n_fft // 2
        signal = F.conv_transpose1d(spectrum, self.synthesis, stride=self.hop, padding=trim)  # type: ignore[arg-type]
        ones = torch.ones_like(spectrum[:1, :1])
        weight = F.conv_transpose1d(ones, self.power, stride=self.hop, padding=trim)  # type: ignore[arg-type]
        return (signal / weight).squeeze(1)


class HiFT(nn.Module):
    """The vocoder: `f0`, then `source`, then `decode`. F frames of mel become F * samples_per_frame samples.

    F0 and the source are float32, their sums float64; `decode` computes in its weights' dtype, its STFTs in float32.
    """

    def __init__(self, spec: HiFTSpec, mel_bins: int) -> None:
        super().__init__()
        self.spec = spec
        self.harmonics = spec.harmonics + 1
        """Sines of the source: the fundamental and its overtones."""
        self.samples_per_frame = math.prod(spec.upsample_rates) * spec.hop
        widths = [spec.base_width // 2**stage for stage in range(len(spec.upsample_rates) + 1)]
        bins = spec.n_fft + 2
        self.f0_predictor = _F0Predictor(mel_bins, spec.f0_width)
        self.m_source = _Source(self.harmonics)
        self.stft = _STFT(spec.n_fft, spec.hop)
        self.conv_pre = nn.Conv1d(mel_bins, widths[0], EDGE_KERNEL, padding=EDGE_KERNEL // 2)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for stage, (rate, kernel) in enumerate(zip(spec.upsample_rates, spec.upsample_kernels, strict=True)):
            width = widths[stage + 1]
            self.ups.append(nn.ConvTranspose1d(widths[stage], width, kernel, rate, padding=(kernel - rate) // 2))
            down = math.prod(spec.upsample_rates[stage + 1 :])
            self.source_downs.append(
                nn.Conv1d(bins, width, 2 * down, down, padding=down // 2) if down > 1 else nn.Conv1d(bins, width, 1)
            )
            self.source_resblocks.append(_ResBlock(width, spec.source_kernels[stage], spec.dilations))
            self.resblocks.extend(_ResBlock(width, kernel, spec.dilations) for kernel in spec.kernels)
        self.conv_post = nn.Conv1d(widths[-1], bins, EDGE_KERNEL, padding=EDGE_KERNEL // 2)
        self.native: NativeDecoder | None = None
        self.captured: Recurring | None = None
        """Run instead of `convolve` where somebody has put one here."""

    @classmethod
    def from_state_dict(cls, spec: HiFTSpec, mel_bins: int, state: Mapping[str, Tensor]) -> "HiFT":
        """A HiFT with the tensors of a reference `mel2wav` state dict, its weight norm folded.

        Raises ModelUnavailable where a tensor is missing or of another shape.
        """
        with torch.device("meta"):
            hift = cls(spec, mel_bins)
        load(hift, StateDictWeights(state, "the HiFT state dict"))
        return hift

    def cast_decoder(self, dtype: torch.dtype) -> None:
        """Let `decode` compute in `dtype`; F0, source and STFT stay as they are."""
        for name, module in self.named_children():
            if name not in ("f0_predictor", "m_source", "stft"):
                module.to(dtype)

    def f0(self, mel: Tensor) -> Tensor:
        """Mel (B, mel_bins, F) -> fundamental frequency (B, F), Hz, float32. Unvoiced below `voiced_threshold`."""
        return self.f0_predictor(mel)

    def source(self, f0: Tensor, phase: Tensor, offsets: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The excitation: sines at the multiples of F0 where it is voiced, and noise.

        Each sample's phase includes that sample's own step. The sum is kept in float64 and modulo 1, so that it does
        not lose precision however long the utterance is.

        Args:
            f0: (B, F) Hz, held for a frame's samples.
            phase: (B, H) float64, cycles run before the first sample, 0 at an utterance's start.
            offsets: (B, H) radians, from `initial_phases`.
            noise: (B, H, F * samples_per_frame), from `source_noise`.

        Returns:
            The source (B, 1, F * samples_per_frame) float32, and the phase (B, H) after its last sample.
        """
        spec = self.spec
        step, starts, ends = self._cycles(f0, phase)
        count = torch.arange(1, self.samples_per_frame + 1, device=f0.device)
        cycles = (starts[..., None] + step[..., None] * count).frac().float()  # (B, H, F, samples of a frame)
        sines = torch.sin(cycles * (2.0 * math.pi) + offsets[:, :, None, None])
        voiced = (f0 > spec.voiced_threshold)[:, None, :, None].float()
        std = voiced * spec.noise_std + (1.0 - voiced) * (spec.sine_amplitude / 3.0)
        waves = sines * (voiced * spec.sine_amplitude) + noise.view_as(sines) * std
        return self.m_source(waves.flatten(2)), ends[:, :, -1].frac()

    def excite(self, f0: Tensor, phase: Tensor, seeds: Tensor, start_samples: Tensor) -> tuple[Tensor, Tensor]:
        """`source` with the phases and the noise of (B,) seeds from each row's start_samples (B,) on.

        On a CPU in one pass by the engine's own kernels where they run; it differs by roundings alone.
        """
        offsets = initial_phases(seeds, self.harmonics)
        kernels = native.kernels() if f0.device.type == "cpu" and self.samples_per_frame <= native.NORMALS else None
        if kernels is None:
            samples = f0.shape[1] * self.samples_per_frame
            return self.source(f0, phase, offsets, source_noise(seeds, start_samples, samples, self.harmonics))
        spec, mixer = self.spec, self.m_source.l_linear
        step, starts, ends = self._cycles(f0, phase)
        by_frame = step.float().transpose(1, 2).contiguous(), starts.transpose(1, 2).contiguous()
        given = f0.contiguous(), *by_frame, offsets.contiguous(), seeds.contiguous(), start_samples.contiguous()
        struct = native.Source(
            self.harmonics, self.samples_per_frame, spec.voiced_threshold, spec.sine_amplitude, spec.noise_std,
            native.pointer(mixer.weight),
        )  # fmt: skip
        made = torch.empty(*f0.shape, self.samples_per_frame)
        rows, frames = (ctypes.c_int64(size) for size in f0.shape)
        kernels.source(ctypes.byref(struct), *map(native.pointer, given), rows, frames, native.pointer(made))
        return torch.tanh(made.flatten(1) + mixer.bias)[:, None], ends[:, :, -1].frac()

    def _cycles(self, f0: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cycles of each sine (B, H, F) float64: that a sample adds, run before a frame, and run after it."""
        multiples = torch.arange(1, self.harmonics + 1, device=f0.device)[:, None]
        step = (f0[:, None] * multiples / SAMPLE_RATE).double()
        ends = phase[:, :, None] + self.samples_per_frame * step.cumsum(-1)
        return step, ends - self.samples_per_frame * step, ends

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Mel (B, mel_bins, F) and source (B, 1, F * samples_per_frame) -> samples (B, F * samples_per_frame)."""
        excitation = self.stft(source)
        x = (self.native or self.captured or self.convolve)(mel, excitation).to(source.dtype)
        log_magnitude, phase = x.split(self.spec.n_fft // 2 + 1, dim=1)
        magnitude = log_magnitude.exp().clamp(max=_MAX_MAGNITUDE)
        phase = torch.sin(phase)
        spectrum = torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), dim=1)
        return self.stft.inverse(spectrum).clamp(-self.spec.audio_limit, self.spec.audio_limit)

    def convolve(self, mel: Tensor, excitation: Tensor) -> Tensor:
        """Mel (B, mel_bins, F) and the source's spectrum (B, n_fft + 2, M) -> (B, n_fft + 2, M): logarithms of
        magnitudes, then what phases are the sines of."""
        spec = self.spec
        dtype = self.conv_pre.weight.dtype
        excitation = excitation.to(dtype)
        x = self.conv_pre(mel.to(dtype))
        last = len(self.ups) - 1
        per_stage = len(spec.kernels)
        for stage, (up, down, block) in enumerate(zip(self.ups, self.source_downs, self.source_resblocks, strict=True)):
            x = up(F.leaky_relu(x, spec.slope))
            if stage == last:
                x = F.pad(x, (1, 0), mode="reflect")  # the STFT has one frame more than the signal has hops
            x = x + block(down(excitation))
            parallel = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            assert isinstance(parallel, nn.ModuleList)
            x = sum(resblock(x) for resblock in parallel) / per_stage
        return self.conv_post(F.leaky_relu(x))
