"""Audio in the containers that phones and browsers record into, which libsndfile does not read."""

import io
from collections.abc import Callable

import av
import numpy as np

_LATE_S = 0.1
"""A container's length may count what the codec needs before and after the sound."""


def container_of(content: bytes) -> str | None:
    """FFmpeg's name of the container that a file's first bytes tell of: mov (m4a, mp4), matroska (webm), aac (ADTS).

    It is then opened as that and nothing else: some of FFmpeg's other formats are lists of further files to open.
    """
    if content[4:8] == b"ftyp":
        return "mov"
    if content[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    is_adts = content[:1] == b"\xff" and content[1:2] and content[1] & 0xF6 == 0xF0  # MP3 says a layer, AAC none
    return "aac" if is_adts else None


def read_container(
    content: bytes, kind: str, check: Callable[[int, int, float | None], None], most_s: float
) -> tuple[np.ndarray, int]:
    """The first sound of a container: (frames, channels) float32 of at most `most_s` and a frame, and its rate.

    `check` is asked, with rate, channels and seconds (None: not told), before anything is decoded and again once the
    decoder has said what it makes; what it raises goes on. Raises ValueError where it cannot be decoded.
    """
    parts: list[np.ndarray] = []
    count = 0
    try:
        with av.open(io.BytesIO(content), "r", format=kind) as file:
            if not file.streams.audio:
                raise ValueError("There is no sound in it.")
            stream = file.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError("Its codec is not known.")
            told = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            check(stream.rate, stream.channels, told)
            floats: av.AudioResampler | None = None
            rate = stream.rate
            for frame in file.decode(stream):
                if floats is None:
                    rate = frame.sample_rate
                    check(rate, frame.layout.nb_channels, told)
                    floats = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
                parts += [part.to_ndarray().T for part in floats.resample(frame)]
                count += frame.samples
                if count > most_s * rate:
                    break
    except av.FFmpegError as error:
        raise ValueError(f"{error.strerror}.") from error
    if not parts:
        raise ValueError("There is no sound in it.")
    if told is not None and count < (min(told, most_s) - _LATE_S) * rate:
        raise ValueError("It is truncated.")
    return np.concatenate(parts), rate
