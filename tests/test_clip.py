"""Reference clips: decoded as librosa does it, or refused by name."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from chatterbox_engine.clip import prepared, read_clip
from chatterbox_engine.errors import InvalidRequest
from tests.sounds import contained


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A sliding tone with noise, (frames, channels) float64."""
    t = np.arange(int(seconds * rate)) / rate
    generator = np.random.default_rng(0)
    sound = 0.3 * np.sin(2 * np.pi * (200 + 50 * t) * t) + 0.01 * generator.standard_normal(len(t))
    return np.stack([sound * (1 - 0.5 * channel) for channel in range(channels)], axis=1)


def encoded(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


WAV = encoded(tone(4, 16_000), 16_000, "WAV")


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [("WAV", 24_000, 1), ("WAV", 8_000, 1), ("FLAC", 44_100, 2), ("MP3", 44_100, 2), ("OGG", 22_050, 1)],
)
def test_equals_librosa(tmp_path: Path, kind: str, rate: int, channels: int) -> None:
    import librosa

    path = tmp_path / "clip"
    path.write_bytes(encoded(tone(4, rate, channels), rate, kind))
    clip = read_clip(path)
    wanted, _ = librosa.load(path, sr=24_000)
    assert clip.dtype == np.float32
    assert np.array_equal(clip, wanted)
    assert np.array_equal(read_clip(path.read_bytes()), wanted)


CONTAINERS = [("ipod", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("adts", "aac")]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_phones_and_browsers_record_is_heard(container: str, codec: str, channels: int) -> None:
    sound = tone(4, 48_000, channels)
    clip = read_clip(contained(sound, 48_000, container, codec))
    wanted = read_clip(encoded(sound, 48_000, "WAV"))
    assert len(clip) == pytest.approx(len(wanted), abs=0.1 * 24_000)
    spectra = [np.abs(np.fft.rfft(one[12_000:84_000].reshape(-1, 2_400), axis=1)) for one in (clip, wanted)]
    likeness = np.sum(spectra[0] * spectra[1]) / np.prod([np.linalg.norm(one) for one in spectra])
    assert likeness > 0.9  # AAC begins with 20 ms of its own
    assert np.std(clip) == pytest.approx(np.std(wanted), rel=0.05)


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_bad_containers_are_refused_by_name(container: str, codec: str) -> None:
    whole = contained(tone(10, 48_000), 48_000, container, codec)
    for seconds, reason in ((2.0, "too short: 2"), (31.0, "too long: 3")):
        with pytest.raises(InvalidRequest, match=reason):
            read_clip(contained(tone(seconds, 48_000), 48_000, container, codec))
    with pytest.raises(InvalidRequest, match="silent"):
        read_clip(contained(0 * tone(4, 48_000), 48_000, container, codec))
    if container in ("ipod", "mp4"):  # the others can be played from where they are cut
        with pytest.raises(InvalidRequest, match="cannot be decoded"):
            read_clip(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequest, match=r"cannot be decoded|too short|rate is 0"):
        read_clip(whole[:12] + bytes(len(whole) - 12))


@pytest.mark.parametrize("tag", ["0", "3"])
def test_an_mp3_that_does_not_tell_its_length_is_read_to_its_end(tag: str) -> None:
    """libsndfile would go by a guess, and cut it, or miss what was never there."""
    loud = tone(10, 44_100)
    loud[: len(loud) // 2] = 0  # so that a guess by the first frames is wrong
    content = contained(loud, 44_100, "mp3", "libmp3lame", write_xing="0", id3v2_version=tag)
    assert content.startswith(b"ID3") == (tag != "0")
    assert len(read_clip(content)) == pytest.approx(10 * 24_000, abs=0.1 * 24_000)
    with pytest.raises(InvalidRequest, match="too long"):
        read_clip(content, max_s=8.0)
    with pytest.raises(InvalidRequest, match="too short"):
        read_clip(content, min_s=12.0)


def test_a_film_without_sound_is_refused() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(40):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        out.mux(stream.encode(None))
    with pytest.raises(InvalidRequest, match="no sound in it"):
        read_clip(file.getvalue())


def test_a_list_of_files_opens_none(tmp_path: Path) -> None:
    """FFmpeg reads lists of further files; here a file is what its first bytes say, or nothing."""
    (tmp_path / "clip.wav").write_bytes(WAV)
    for text in (f"ffconcat version 1.0\nfile {tmp_path}/clip.wav\n", f"#EXTM3U\n#EXTINF:4,\n{tmp_path}/clip.wav\n"):
        with pytest.raises(InvalidRequest, match="cannot be decoded"):
            read_clip(text.encode())


def with_nan() -> bytes:
    samples = tone(4, 16_000)
    samples[1000] = np.nan
    return encoded(samples, 16_000, "WAV", "FLOAT")


def odd_wav(offset: int, value: int, size: int) -> bytes:
    """WAV with a number of its header replaced."""
    return WAV[:offset] + value.to_bytes(size, "little") + WAV[offset + size :]


BAD: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"This is a letter, not a clip.\n" * 99, "cannot be decoded as audio: Format not recognised"),
    (WAV[:20], "cannot be decoded"),
    (WAV[:100_000], "truncated"),
    (WAV[:44] + bytes(len(WAV) - 44), "silent"),
    (encoded(tone(4, 16_000) * 1e-3, 16_000, "WAV", "FLOAT"), "silent"),
    (encoded(tone(2.9, 16_000), 16_000, "WAV"), "too short: 2.9 s"),
    (encoded(tone(0, 16_000), 16_000, "WAV"), "too short: 0.0 s"),
    (encoded(tone(31, 16_000), 16_000, "MP3"), "too long: 31.0 s"),
    (encoded(tone(4, 4_000), 4_000, "WAV"), "sample rate is 4000 Hz"),
    (odd_wav(24, 4_000_000, 4), "sample rate is 4000000 Hz"),
    (encoded(tone(4, 16_000, 6), 16_000, "WAV"), "6 channels"),
    (with_nan(), "not numbers"),
    (encoded(tone(4, 16_000) * 32_768, 16_000, "WAV", "FLOAT"), "full scale is 1"),
    (bytes(20_000_001), "more than 20 MB"),
]


@pytest.mark.parametrize(("content", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_clips_are_refused_by_name(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(content)
    for data in (content, path):
        with pytest.raises(InvalidRequest, match=reason) as caught:
            read_clip(data)
        assert caught.value.param == "file"


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            read_clip(path)


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_half_a_compressed_file_is_refused(kind: str) -> None:
    content = encoded(tone(10, 24_000), 24_000, kind)
    with pytest.raises(InvalidRequest, match=r"truncated|cannot be decoded"):
        read_clip(content[: len(content) // 2])


def test_half_an_ogg_is_what_it_holds() -> None:
    """Ogg's header promises no length."""
    content = encoded(tone(10, 24_000), 24_000, "OGG")
    assert 3 * 24_000 <= len(read_clip(content[: len(content) // 2])) < 10 * 24_000


def test_a_wav_written_to_a_pipe_is_read() -> None:
    """Its lengths are unknown to the writer, which leaves the largest number."""
    piped = odd_wav(40, 0xFFFFFFFF, 4)
    assert WAV[36:40] == b"data"
    assert np.array_equal(read_clip(piped), read_clip(WAV))


def test_a_header_that_promises_hours_is_refused_before_decoding() -> None:
    content = bytearray(encoded(tone(4, 24_000), 24_000, "FLAC"))
    content[21] |= 0x0F  # the highest bits of STREAMINFO's number of samples
    with pytest.raises(InvalidRequest, match=r"too long|truncated|decoded"):
        read_clip(bytes(content))


@pytest.mark.parametrize(("before", "after", "gain"), [(2.0, 1.0, 0.01), (0.0, 3.0, 3.0), (0.0, 0.0, 1.0)])
def test_a_prepared_clip_is_its_sound_at_one_loudness(before: float, after: float, gain: float) -> None:
    import pyloudnorm

    sound = tone(4, 24_000)[:, 0].astype(np.float32)
    room = 1e-4 * np.random.default_rng(2).standard_normal(3 * 24_000).astype(np.float32)
    clip = gain * np.concatenate((room[: int(before * 24_000)], sound, room[: int(after * 24_000)]))
    made = prepared(clip, min_s=3.0)
    assert len(sound) <= len(made) <= len(sound) + 0.35 * 24_000
    assert pyloudnorm.Meter(24_000).integrated_loudness(made) == pytest.approx(-27.0, abs=0.1)


@pytest.mark.parametrize("place", [0.0, 1.0, 3.5])
def test_a_short_sound_keeps_what_makes_it_long_enough(place: float) -> None:
    clip = np.zeros(4 * 24_000, np.float32)
    clip[int(place * 24_000) : int((place + 0.5) * 24_000)] = tone(0.5, 24_000)[:, 0]
    made = prepared(clip, min_s=3.0)
    assert len(made) == 3 * 24_000
    assert np.count_nonzero(made) == np.count_nonzero(clip)
