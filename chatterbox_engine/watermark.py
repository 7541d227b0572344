"""Perth's watermark on a stream.

Perth (resemble-perth, github.com/resemble-ai/Perth) turns an utterance at 32 kHz into frames of 2048 samples, 320
apart; a convolutional network reads the logarithmic magnitudes below 2 kHz and answers with a change of each, in dB.
Here the same change is made without Perth's two resamplings and without waiting for the end:

- Frames of 1536 samples, 240 apart, at 24 kHz lie at the same instants and have the same bins, 15.625 Hz apart, as
  Perth's frames at 32 kHz; their magnitudes are 3/4 of those. So nothing is resampled.
- The change is added: watermarked = samples + delta, with delta the inverse STFT of (gain - 1) x spectrum.
- Streams whose windows are of one length are computed together.
- Each push computes delta for the new samples from a window that reaches back as far as the network sees, and ahead
  as far as there are samples. The last few samples (`look_ahead_s`) are held back; the next push computes their delta
  anew, knowing what follows, and the old one is faded into the new one: delta has no seams.
"""

import contextlib
import io
import math
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chatterbox_engine.accel import native
from chatterbox_engine.accel.native_conv import Activation, NativeConv
from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.parts import parts_of
from chatterbox_engine.types import SAMPLE_RATE

_FFT, _HOP = 1536, 240
"""Perth's 2048 and 320 at 32 kHz, in samples at 24 kHz."""
_REACH = 15
"""Frames to either side that the encoder's five convolutions of width 7 see."""
_CONTEXT = _REACH * _HOP + _FFT
"""Samples before the first new one on which its delta depends: half a frame, the network's reach, half a frame."""
_MIN_STEP = 960
"""Fewer samples than this wait for more: each push goes over the context again."""
_FLOOR_DB, _RANGE_DB = -180.0, 195.0
"""Perth's magnitudes are decibels, shifted and scaled so that -180 dB is 0 and 15 dB is 1."""
_SLOPE = 0.01
"""Of the network's LeakyReLU."""
_QUIET = 0.05
"""Frames below this part of the loudest frame's summed magnitudes stay as they are (perth's `magmask`)."""
_PERTH = ("perth", "perth.perth_net", "perth.perth_net.perth_net_implicit")


def _encoder() -> Any:
    """Perth's Encoder as it was trained, without what else the package imports: SciPy, librosa, numba."""
    found = find_spec(_PERTH[0])
    if found is None or not found.submodule_search_locations:
        raise ModelUnavailable("No watermark without the package resemble-perth: install it, or set watermark=False.")
    with parts_of(*_PERTH):
        checkpoints, model, encoder = (
            import_module(f"{_PERTH[-1]}.{name}") for name in ("checkpoint_manager", "model", "model.encoder")
        )
    folder = Path(found.submodule_search_locations[0]) / "perth_net" / "pretrained"
    saved = checkpoints.CheckpointManager(folder, "implicit")
    net = encoder.Encoder(saved.hp.hidden_size, model.compute_subband_freq(saved.hp))
    weights, mine = saved.load_latest()["model"], "encoder."
    net.load_state_dict({name.removeprefix(mine): weights[name] for name in weights if name.startswith(mine)})
    return net.eval().requires_grad_(False)


class Watermarker:
    """Perth's network, shared by all streams of a process. Its methods and its streams' belong to one thread.

    Detection needs no look-ahead, but seams do: with 40 ms delta comes within -16 dB (noise, chunks of 0.2 s) to -42 dB
    (speech, 2 s) of the one that knows the whole utterance.

    On CPUs with AMX its convolutions are the engine's own, in bf16 (`kernels`): delta then differs by -44 dB. Elsewhere
    they are PyTorch's in fp32.

    Raises ModelUnavailable where the package resemble-perth is not installed.
    """

    def __init__(self, look_ahead_s: float = 0.04, device: torch.device | str = "cpu", *, kernels: bool = True) -> None:
        net = _encoder()
        self.look_ahead = round(look_ahead_s * SAMPLE_RATE)
        """Samples that a stream holds back until the next push."""
        self._band = int(net.subband)
        self._window = torch.hann_window(_FFT, device=device)
        self._device = torch.device(device)
        own = kernels and self._device.type == "cpu" and native.has_tiles()
        self._change = _NativeChange(net.layers) if own else net.layers.to(self._device)

    def stream(self) -> "WatermarkStream":
        """A new utterance."""
        return WatermarkStream(self)

    @torch.inference_mode()
    def detect(self, samples: np.ndarray) -> float:
        """Perth's own detector on (n,) samples at 24 kHz: 0 for no watermark to 1 for certain, not rounded.

        0 for what is silent or shorter than a frame. The first call imports the rest of Perth, which takes seconds.
        Raises ModelUnavailable where it cannot be imported.
        """
        if len(samples) < _FFT or not samples.any():
            return 0.0
        return float(self._detector.get_watermark(samples.astype(np.float32), SAMPLE_RATE, round=False))

    @cached_property
    def _detector(self) -> Any:
        import perth

        if perth.PerthImplicitWatermarker is None:
            raise ModelUnavailable(
                "Perth's detector cannot be imported: it needs pkg_resources, which setuptools 81 dropped. "
                "Install 'setuptools<81'."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which step it was trained to
            return perth.PerthImplicitWatermarker()

    def push(self, streams: list["WatermarkStream"], sounds: list[np.ndarray], final: list[bool]) -> list[np.ndarray]:
        """WatermarkStream.push for several streams of this watermarker, each once."""
        windows = [stream.take(sound, last) for stream, sound, last in zip(streams, sounds, final, strict=True)]
        marked = [np.zeros(0, np.float32)] * len(streams)
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            if window is not None:
                by_length.setdefault(len(window), []).append(index)
        for indices in by_length.values():
            together = np.stack([window for i in indices if (window := windows[i]) is not None])
            loudest = np.array([streams[i].loudest for i in indices], np.float32)
            for index, delta, level in zip(indices, *self.delta(together, loudest), strict=True):
                marked[index] = streams[index].give(delta, float(level))
        return marked

    @torch.inference_mode()
    def delta(self, samples: np.ndarray, loudest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the watermark adds to (B, n) samples, and the larger of `loudest` (B,) and their loudest frames."""
        length = samples.shape[1]
        padded = np.pad(samples, ((0, 0), (0, max(0, _FFT - length))))  # reflection at the edges needs half a frame
        spectrum = torch.stft(
            torch.from_numpy(padded).to(self._device), _FFT, _HOP, window=self._window, center=True, return_complex=True
        )  # (B, 769, frames)
        decibels = 20.0 * torch.log10((spectrum.abs() * (4 / 3)).clip(10 ** (_FLOOR_DB / 20)))
        levels = (decibels - _FLOOR_DB) / _RANGE_DB
        loudness = levels.sum(dim=1)  # (B, frames)
        most = torch.maximum(torch.from_numpy(loudest).to(self._device), loudness.amax(dim=1))
        change = self._change(levels[:, : self._band]) * (loudness > _QUIET * most[:, None])[:, None]
        spectrum[:, : self._band] *= torch.expm1(change * (_RANGE_DB / 20.0 * math.log(10.0)))
        spectrum[:, self._band :] = 0
        added = torch.istft(spectrum, _FFT, _HOP, window=self._window, center=True, length=padded.shape[1])
        return added[:, :length].cpu().numpy(), most.cpu().numpy()


class _NativeChange:
    """Perth's encoder by the CPU's own kernels: levels (B, bins, frames) -> their change."""

    def __init__(self, layers: nn.Module) -> None:
        first, *others = (layer.get_submodule("conv") for layer in layers.children())
        self._convs = [NativeConv.of(first, exact=False)]
        self._convs += [NativeConv.of(conv, exact=False, activation=Activation.LEAKY, slope=_SLOPE) for conv in others]

    def __call__(self, levels: Tensor) -> Tensor:
        x = levels.transpose(1, 2).contiguous()
        for conv in self._convs:
            x = conv(x, x.shape[1])
        return x.transpose(1, 2)


class WatermarkStream:
    """The watermark on one utterance, chunk by chunk. Memory: about half a second of samples and the chunk itself."""

    def __init__(self, watermarker: Watermarker) -> None:
        self._watermarker = watermarker
        self._samples = np.zeros(0, np.float32)
        """Context, then samples not yet given out. It begins at a multiple of _HOP: frames keep their places."""
        self._context = 0
        """How many of them are context."""
        self._ready = 0
        """How many after those are given out next."""
        self._delta = np.zeros(0, np.float32)
        """Computed for the first samples not yet given out."""
        self.loudest = 0.0
        """Frame so far, by its summed magnitudes."""

    def push(self, samples: np.ndarray, final: bool) -> np.ndarray:
        """Take (n,) float32 samples at 24 kHz; return those ready, watermarked, in [-1, 1]. The last push is `final`.

        In all as many come back as went in.
        """
        return self._watermarker.push([self], [samples], [final])[0]

    def take(self, samples: np.ndarray, final: bool) -> np.ndarray | None:
        """The first half of a push: the window (n,) whose delta is wanted, None where too little is ready."""
        self._samples = np.concatenate([self._samples, samples.astype(np.float32, copy=False)])
        self._ready = len(self._samples) - self._context - (0 if final else self._watermarker.look_ahead)
        return None if self._ready < (1 if final else _MIN_STEP) else self._samples

    def give(self, delta: np.ndarray, loudest: float) -> np.ndarray:
        """The other half: the samples ready, with the window's delta (n,)."""
        self.loudest = loudest
        delta = delta[self._context :]
        known = len(self._delta)
        fade = np.linspace(0.0, 1.0, known, endpoint=False, dtype=np.float32)
        delta[:known] = self._delta + fade * (delta[:known] - self._delta)
        begin, end = self._context, self._context + self._ready
        marked = np.clip(self._samples[begin:end] + delta[: self._ready], -1.0, 1.0)
        self._delta = delta[self._ready :].copy()
        drop = max(0, end - _CONTEXT) // _HOP * _HOP
        self._samples, self._context = self._samples[drop:], end - drop
        return marked
