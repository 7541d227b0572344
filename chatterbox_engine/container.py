"""Audio in what libsndfile does not read: containers that phones and browsers record into, streams of untold length."""

import io
from collections.abc import Callable

import av
import numpy as np

_LATE_S = 0.1
"""A container's length may count what the codec needs before and after the sound."""
_STREAMS = ("aac", "mp3", "flac")
"""A length that FFmpeg tells of these is a guess."""
_FIRST_FRAME = 1024
"""Bytes within which an MP3's first frame tells of the whole, where it does."""


def container_of(content: bytes) -> str | None:
    """FFmpeg's name of the container that a file's first bytes tell of, where libsndfile does not read it: mov (m4a,
    mp4), matroska (webm), aac (ADTS); mp3 and flac where they do not tell their length, as what is streamed.

    It is then opened as that and nothing else: some of FFmpeg's other formats are lists of further files to open.
    """
    if content[4:8] == b"ftyp":
        return "mov"
    if content[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if content[:4] == b"fLaC":
        samples = int.from_bytes(content[21:26]) & 0xF_FFFF_FFFF  # 36 bits of STREAMINFO (RFC 9639, 8.2)
        return None if samples else "flac"
    begin = _after_tag(content)
    frame = content[begin : begin + _FIRST_FRAME]
    if frame[:1] != b"\xff" or len(frame) < 2 or frame[1] & 0xE0 != 0xE0:
        return None
    if frame[1] & 0xF6 == 0xF0:  # MP3 says a layer, AAC none
        return "aac"
    return None if any(mark in frame for mark in (b"Xing", b"Info", b"VBRI")) else "mp3"


def _after_tag(content: bytes) -> int:
    """Where the sound begins, behind an ID3v2 tag (id3.org, id3v2.4.0-structure, 3.1)."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = 0
    for byte in content[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


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
            told = None
            if stream.duration and stream.time_base and kind not in _STREAMS:
                told = float(stream.duration * stream.time_base)
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
