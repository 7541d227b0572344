"""Clips of voices, as files."""

import io

import av
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


def contained(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    """(frames, channels), as a phone or a browser records it."""
    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate = rate
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()
