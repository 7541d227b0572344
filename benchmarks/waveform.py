"""A clip of sound as the benchmarks hand it around: (samples,) float32 at 24 kHz."""

from pathlib import Path

import numpy as np

from chatterbox_engine.types import SAMPLE_RATE


def resampled(audio: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) float32 at 24 kHz -> the same at `rate`."""
    import librosa  # slow to import

    return librosa.resample(audio.astype(np.float32), orig_sr=SAMPLE_RATE, target_sr=rate)


def save(audio: np.ndarray, path: Path) -> None:
    """As a 16-bit WAV file; its folder is made."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(audio, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16")
