"""Clips to make voices of, as files."""

import io

import numpy as np
import soundfile


def hum(seconds: float = 4.0, pitch: float = 150.0) -> np.ndarray:
    """A hum with three swells a second, (n,) float64 at 24 kHz."""
    t = np.arange(int(24_000 * seconds)) / 24_000
    return 0.2 * np.sin(2 * np.pi * pitch * t) * (1 + np.sin(2 * np.pi * 3 * t))


def clip(seconds: float = 4.0, pitch: float = 150.0, kind: str = "WAV") -> bytes:
    """A hum, as a file of one of libsndfile's kinds."""
    file = io.BytesIO()
    soundfile.write(file, hum(seconds, pitch), 24_000, format=kind)
    return file.getvalue()
