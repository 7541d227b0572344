"""WAV and PCM bytes, also for a stream whose length nobody knows yet."""

import struct

import numpy as np

from chatterbox_engine.types import SAMPLE_RATE

_UNKNOWN = 0xFFFFFFFF
"""The size that players take for "until the stream ends"; FFmpeg, which writes it too, warns when it reads it."""


def wav_header(size: int | None = None) -> bytes:
    """RIFF header of 16-bit mono PCM at SAMPLE_RATE, of so many bytes. None: nobody knows yet."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    riff, data = (_UNKNOWN, _UNKNOWN) if size is None else (36 + size, size)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def pcm16(samples: np.ndarray) -> bytes:
    """float32 samples in [-1, 1] -> little-endian 16-bit PCM; what is beyond is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
