"""Perth's watermark on a stream.

Perth (resemble-perth, github.com/resemble-ai/Perth) turns an utterance at 32 kHz into frames of 2048 samples, 320
apart; a convolutional network reads the logarithmic magnitudes below 2 kHz and answers with a change of each, in dB.
Here the same change is made without Perth's two resamplings and without waiting for the end:

- Frames of 1536 samples, 240 apart, at 24 kHz lie at the same instants and have the same bins, 15.625 Hz apart, as
  Perth's frames at 32 kHz; their magnitudes are 3/4 of those. So nothing is resampled.
- The change is added: watermarked = samples + delta, with delta the inverse STFT of (gain - 1) x spectrum.
- Each push computes delta for the new samples from a window that reaches back as far as the network sees, and ahead
  as far as there are samples. The last few samples (`look_ahead_s`) are held back; the next push computes their delta
  anew, knowing what follows, and the old one is faded into the new one: delta has no seams.
"""

import contextlib
import io
import math

import numpy as np
import torch

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.types import SAMPLE_RATE

_FFT, _HOP = 1536, 240
"""Perth's 2048 and 320 at 32 kHz, in samples at 24 kHz."""
_REACH = 15
"""Frames to either side that the encoder's five convolutions of width 7 see."""
_CONTEXT = _REACH * _HOP + _FFT
"""Samples before the first new one on which its delta depends: half a frame, the network's reach, half a frame."""
_MIN_STEP = 960
"""Fewer samples than this wait for more, since a push costs about 5 ms however short it is."""
_FLOOR_DB, _RANGE_DB = -180.0, 195.0
"""Perth's magnitudes are decibels, shifted and scaled so that -180 dB is 0 and 15 dB is 1."""
_QUIET = 0.05
"""Frames below this part of the loudest frame's summed magnitudes stay as they are (perth's `magmask`)."""


class Watermarker:
    """Perth's network, shared by all streams of a process. Its methods and its streams' belong to one thread.

    Detection needs no look-ahead, but seams do: with 40 ms delta comes within -16 dB (noise, chunks of 0.2 s) to -42 dB
    (speech, 2 s) of the one that knows the whole utterance.

    Raises ModelUnavailable where the package perth lacks its watermarker.
    """

    def __init__(self, look_ahead_s: float = 0.04) -> None:
        import perth

        if perth.PerthImplicitWatermarker is None:
            raise ModelUnavailable(
                "Perth's watermarker cannot be imported: it needs pkg_resources, which setuptools 81 dropped. "
                "Install 'setuptools<81', or switch the watermark off (watermark=False)."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which step it was trained to
            self._perth = perth.PerthImplicitWatermarker()
        self._net = self._perth.perth_net.eval().requires_grad_(False)
        self.look_ahead = round(look_ahead_s * SAMPLE_RATE)
        """Samples that a stream holds back until the next push."""
        self._window = torch.hann_window(_FFT)

    def stream(self) -> "WatermarkStream":
        """A new utterance."""
        return WatermarkStream(self)

    @torch.inference_mode()
    def detect(self, samples: np.ndarray) -> float:
        """Perth's own detector on (n,) samples at 24 kHz: 0 for no watermark to 1 for certain, not rounded.

        0 for what is silent or shorter than a frame.
        """
        if len(samples) < _FFT or not samples.any():
            return 0.0
        return float(self._perth.get_watermark(samples.astype(np.float32), SAMPLE_RATE, round=False))

    @torch.inference_mode()
    def delta(self, samples: np.ndarray, loudest: float) -> tuple[np.ndarray, float]:
        """What the watermark adds to (n,) samples, and the larger of `loudest` and their loudest frame."""
        padded = np.pad(samples, (0, max(0, _FFT - len(samples))))  # reflection at the edges needs half a frame
        spectrum = torch.stft(
            torch.from_numpy(padded), _FFT, _HOP, window=self._window, center=True, return_complex=True
        )  # (769, frames)
        decibels = 20.0 * torch.log10((spectrum.abs() * (4 / 3)).clip(10 ** (_FLOOR_DB / 20)))
        levels = (decibels - _FLOOR_DB) / _RANGE_DB
        loudness = levels.sum(dim=0)
        loudest = max(loudest, float(loudness.max()))
        change = self._net.encoder.layers(levels[None, : self._net.subband])[0] * (loudness > _QUIET * loudest)
        spectrum[: len(change)] *= torch.expm1(change * (_RANGE_DB / 20.0 * math.log(10.0)))
        spectrum[len(change) :] = 0
        added = torch.istft(spectrum, _FFT, _HOP, window=self._window, center=True, length=len(padded))
        return added.numpy()[: len(samples)], loudest


class WatermarkStream:
    """The watermark on one utterance, chunk by chunk. Memory: about half a second of samples and the chunk itself."""

    def __init__(self, watermarker: Watermarker) -> None:
        self._watermarker = watermarker
        self._samples = np.zeros(0, np.float32)
        """Context, then samples not yet given out. It begins at a multiple of _HOP: frames keep their places."""
        self._context = 0
        """How many of them are context."""
        self._delta = np.zeros(0, np.float32)
        """Computed for the first samples not yet given out."""
        self._loudest = 0.0

    def push(self, samples: np.ndarray, final: bool) -> np.ndarray:
        """Take (n,) float32 samples at 24 kHz; return those ready, watermarked, in [-1, 1]. The last push is `final`.

        In all as many come back as went in.
        """
        self._samples = np.concatenate([self._samples, samples.astype(np.float32, copy=False)])
        ready = len(self._samples) - self._context - (0 if final else self._watermarker.look_ahead)
        if ready < (1 if final else _MIN_STEP):
            return np.zeros(0, np.float32)
        delta, self._loudest = self._watermarker.delta(self._samples, self._loudest)
        delta = delta[self._context :]
        known = len(self._delta)
        fade = np.linspace(0.0, 1.0, known, endpoint=False, dtype=np.float32)
        delta[:known] = self._delta + fade * (delta[:known] - self._delta)
        begin, end = self._context, self._context + ready
        marked = np.clip(self._samples[begin:end] + delta[:ready], -1.0, 1.0)
        self._delta = delta[ready:]
        drop = max(0, end - _CONTEXT) // _HOP * _HOP
        self._samples, self._context = self._samples[drop:], end - drop
        return marked
