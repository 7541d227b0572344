"""WAV and PCM bytes for a stream whose length nobody knows yet."""

import struct

import numpy as np

from chatterbox_engine.types import SAMPLE_RATE

_UNKNOWN = 0xFFFFFFFF
"""The size that players take for "until the stream ends"."""


def wav_header() -> bytes:
    """RIFF header of 16-bit mono PCM at SAMPLE_RATE, of unknown length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN, b"WAVE") + form + struct.pack("<4sI", b"data", _UNKNOWN)


def pcm16(samples: np.ndarray) -> bytes:
    """float32 samples in [-1, 1] -> little-endian 16-bit PCM; what is beyond is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
