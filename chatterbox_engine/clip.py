"""A reference clip: an audio file of unknown origin, decoded within bounds or refused by name."""

import io
import math
from pathlib import Path

import numpy as np
import soundfile

from chatterbox_engine.container import container_of, read_container
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.types import SAMPLE_RATE

_KINDS = "WAV, FLAC, MP3, Ogg, M4A or WebM"
_MIN_RATE, _MAX_RATE = 8_000, 192_000
_SILENCE = 1e-3
"""RMS of -60 dBFS."""
_QUIET_DB = 45.0
"""Below the loudest frame: breath and room between words are louder."""
_KEPT = SAMPLE_RATE // 10
"""Samples of what is before and after the sound that stay."""
_LUFS = -27.0
_MAX_PEAK = 4.0
"""Full scale is 1. Codecs overshoot a little; samples far above it are integers called floats."""
_UNKNOWN_LENGTH = 0x7FFF_0000
"""WAV writers that cannot seek back leave a length of 0 or one near the largest."""


def read_clip(
    data: bytes | Path, *, min_s: float = 3.0, max_s: float = 30.0, max_bytes: int = 20_000_000
) -> np.ndarray:
    """Decode WAV, FLAC, MP3, Ogg, M4A or WebM, mono or stereo, to (n,) float32 at 24 kHz, as `librosa.load(sr=24000)`
    does.

    What the header promises is checked before anything is decoded, and no more than `max_s` is.

    Raises InvalidRequest (param "file") for what is absent, too large, not audio, truncated, too short, too long,
    silent, of an odd rate or number of channels, or not finite.
    """
    content = _content(data, max_bytes)
    kind = container_of(content)
    samples, rate = _from_sound_file(content, min_s, max_s) if kind is None else _from(kind, content, min_s, max_s)
    _check_duration(len(samples) / rate, min_s, max_s)
    if not np.isfinite(samples).all():
        raise _refusal("The clip has samples that are not numbers (NaN or infinite). Export it again as 16-bit PCM.")
    if (peak := float(np.abs(samples).max())) > _MAX_PEAK:
        raise _refusal(f"The clip's samples reach {peak:.3g}, where full scale is 1. Export it again as 16-bit PCM.")

    import librosa  # slow to import

    mono = librosa.to_mono(samples.T)
    if float(np.sqrt(np.mean(np.square(mono, dtype=np.float64)))) < _SILENCE:
        raise _refusal("The clip is silent (below -60 dBFS). Send one with clear speech.")
    return librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE)


def _from_sound_file(content: bytes, min_s: float, max_s: float) -> tuple[np.ndarray, int]:
    """(frames, channels) and their rate, by libsndfile."""
    truncated = _refusal("The file is truncated: it holds less audio than its header promises. Send it again, whole.")
    if _is_cut_wav(content):
        raise truncated
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, channels, promised = file.samplerate, file.channels, file.frames
            _check_header(rate, channels, promised / max(rate, 1), min_s, max_s)
            samples = file.read(int(max_s * rate) + 1, dtype="float32", always_2d=True)  # (frames, channels)
    except soundfile.LibsndfileError as error:
        raise _refusal(f"The file cannot be decoded as audio: {error.error_string} Send {_KINDS}.") from error
    if len(samples) < promised:
        raise truncated
    return samples, rate


def _from(kind: str, content: bytes, min_s: float, max_s: float) -> tuple[np.ndarray, int]:
    """(frames, channels) and their rate, by FFmpeg."""

    def check(rate: int, channels: int, seconds: float | None) -> None:
        _check_header(rate, channels, min_s if seconds is None else seconds, min_s, max_s)

    try:
        return read_container(content, kind, check, max_s)
    except ValueError as error:
        raise _refusal(f"The file cannot be decoded as audio: {error} Send {_KINDS}.") from error


def prepared(clip: np.ndarray, *, min_s: float) -> np.ndarray:
    """A clip (n,) at 24 kHz at -27 LUFS and without the silence before and after its sound, as far as `min_s` are left.

    To that loudness chatterbox-tts brings the clips of its Turbo; here all voices of a service are equally loud.
    """
    import librosa

    _, (begin, end) = librosa.effects.trim(clip, top_db=_QUIET_DB)
    begin, end = max(0, begin - _KEPT), min(len(clip), end + _KEPT)
    missing = max(0, round(min_s * SAMPLE_RATE) - (end - begin))
    end = min(len(clip), end + missing)
    begin = max(0, min(begin, end - round(min_s * SAMPLE_RATE)))
    return levelled(clip[begin:end], _LUFS)


def levelled(clip: np.ndarray, lufs: float) -> np.ndarray:
    """A clip (n,) at 24 kHz brought to a loudness (ITU-R BS.1770-4); one too quiet to have any stays as it is."""
    import pyloudnorm

    gain = 10.0 ** ((lufs - pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(clip)) / 20.0)
    return clip * float(gain) if math.isfinite(gain) and gain > 0.0 else clip


def _content(data: bytes | Path, max_bytes: int) -> bytes:
    """The file's bytes; no more than one above the limit is read."""
    if isinstance(data, Path):
        path = data
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise _refusal(f"{path} cannot be read: {error.strerror}.") from error
    if not data:
        raise _refusal(f"The file is empty. Send an audio file: {_KINDS}.")
    if len(data) > max_bytes:
        raise _refusal(f"The file has more than {max_bytes / 1e6:g} MB. Send a shorter clip, or one as FLAC or MP3.")
    return data


def _check_header(rate: int, channels: int, seconds: float, min_s: float, max_s: float) -> None:
    if channels > 2:
        raise _refusal(f"The clip has {channels} channels. Mix it down to mono or stereo.")
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise _refusal(f"The clip's sample rate is {rate} Hz. Resample it to between {_MIN_RATE} and {_MAX_RATE} Hz.")
    _check_duration(seconds, min_s, max_s)


def _check_duration(seconds: float, min_s: float, max_s: float) -> None:
    if seconds < min_s:
        raise _refusal(f"The clip is too short: {seconds:.1f} s. Send {min_s:g} to {max_s:g} s of speech.")
    if seconds > max_s:
        raise _refusal(f"The clip is too long: {seconds:.1f} s. Cut it to {min_s:g} to {max_s:g} s of speech.")


def _is_cut_wav(content: bytes) -> bool:
    """Whether a WAV file ends before its data chunk does, which libsndfile passes over in silence."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return False
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"data":
            return 0 < size < _UNKNOWN_LENGTH and place + 8 + size > len(content)
        place += 8 + size + size % 2  # chunks are padded to even lengths
    return False


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, "file")
