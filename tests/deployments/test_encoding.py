"""Every format decoded again, whatever the chunks; speeds."""

import io
import json
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.clip import read_clip
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, SpokenWord
from deployments.encoding import Format, Telling, Tempo, audio_frame
from deployments.wav import pcm16

LOSSY = {"mp3": 2 * 1152, "opus": 312 + 480, "aac": 2 * 1024}
"""Samples by which a decoded stream may be longer: the codec's priming, and its last frame filled up."""
FORMATS = get_args(Format)


def hum(count: int, pitch: float = 220.0) -> np.ndarray:
    t = np.arange(count) / SAMPLE_RATE
    return (0.4 * np.sin(2 * np.pi * pitch * t) * (1.2 + np.sin(2 * np.pi * 3 * t)) / 2.2).astype(np.float32)


def told(
    form: Format,
    samples: np.ndarray,
    cuts: list[int],
    speed: float = 1.0,
    text: str | None = None,
    *,
    whole: bool = False,
) -> list[bytes]:
    """The bytes of each chunk; the last one is empty, as S3Gen's is."""
    telling = Telling(form, speed, text, whole=whole)
    chunks = [AudioChunk(part, False) for part in np.split(samples, sorted(cuts))]
    return [telling.tell(chunk) for chunk in (*chunks, AudioChunk(samples[:0], True))]


def decoded(form: str, data: bytes) -> np.ndarray:
    """(n,) at SAMPLE_RATE."""
    if form == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32767
    demuxer = form if form in ("aac", "mp3") else None  # one frame is too little to be known by
    with av.open(io.BytesIO(data), format=demuxer) as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "pcm"])
@pytest.mark.parametrize("whole", [False, True])
def test_what_was_spoken_can_be_a_clip(form: Format, whole: bool) -> None:
    """A stream does not tell its length."""
    samples = hum(10 * SAMPLE_RATE)
    clip = read_clip(b"".join(told(form, samples, [SAMPLE_RATE], whole=whole)))
    assert len(clip) == pytest.approx(len(samples), abs=0.1 * SAMPLE_RATE)


@pytest.mark.parametrize("form", FORMATS)
@given(count=st.integers(600, 30_000), cuts=st.lists(st.integers(0, 30_000), max_size=6))
@settings(max_examples=15)
def test_what_is_decoded_is_what_was_spoken(form: Format, count: int, cuts: list[int]) -> None:
    samples = hum(count)
    made = decoded(form, b"".join(told(form, samples, [cut for cut in cuts if cut <= count])))
    if form not in LOSSY:
        assert len(made) == count
        assert np.abs(made - samples).max() < 1e-4
        return
    assert count <= len(made) + 480  # Ogg tells the end of Opus; its decoder drops the priming
    assert len(made) <= count + LOSSY[form] + 1152
    if count > 6_000:
        delay = int(np.argmax(np.correlate(made[: count // 2 + 3_000], samples[: count // 2], "valid")))
        part = made[delay : delay + count // 2]
        assert np.corrcoef(part, samples[: len(part)])[0, 1] > 0.98


def ffmpeg_says(data: bytes, place: Path) -> list[str]:
    """What FFmpeg itself warns of when it decodes a file."""
    place.write_bytes(data)
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "warning", "-i", str(place), "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line for line in done.stderr.splitlines() if "Guessed Channel Layout" not in line]  # 5.1 says it of any wav


def pyav_says(data: bytes, form: str) -> list[str]:
    """What FFmpeg's libraries warn of, as PyAV has them."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=False) as said:
            assert len(decoded(form, data)) >= 30_000
    finally:
        av.logging.set_level(before)
    return [line.strip() for *_, line in said]


NO_LENGTH = {"aac": ["Estimating duration from bitrate, this may be inaccurate"]}
"""ADTS has no place for it, whoever writes it."""


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "pcm"])
def test_ffmpeg_decodes_a_file_without_a_warning(form: Format, tmp_path: Path) -> None:
    data = b"".join(told(form, hum(30_000), [600, 9_000], whole=True))
    assert pyav_says(data, form) == NO_LENGTH.get(form, [])
    if shutil.which("ffmpeg"):
        said = ffmpeg_says(data, tmp_path / f"a.{form}")
        assert [line for line in said if not any(line.endswith(known) for known in NO_LENGTH.get(form, []))] == []


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "pcm"])
def test_ffmpeg_warns_of_a_stream_only_that_its_length_is_not_told(form: Format) -> None:
    """Nobody knows it when a stream begins. A WAV has the very lines that FFmpeg's own streamed WAV has."""
    said = pyav_says(b"".join(told(form, hum(30_000), [600, 9_000])), form)
    if form == "wav":
        assert said == pyav_says(ffmpegs_stream(hum(30_000)), form)
        return
    assert [line for line in said if "duration" not in line] == []


def ffmpegs_stream(samples: np.ndarray) -> bytes:
    """A WAV as FFmpeg writes it where it cannot go back."""

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="wav", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        container.mux(stream.encode(audio_frame(np.frombuffer(pcm16(samples), np.int16), 0)))
        container.mux(stream.encode(None))
    return pipe.data


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_tells_its_length(form: Format) -> None:
    samples = hum(30_000)
    *early, data = told(form, samples, [600, 9_000], whole=True)
    assert early == [b""] * len(early)
    made = decoded(form, data)
    if form == "aac":  # ADTS has no place for it
        assert len(made) >= 30_000
        return
    assert len(made) == 30_000  # MP3's too: its table tells what is priming
    assert np.abs(made - samples).max() < (0.1 if form in LOSSY else 1e-4)
    if form != "pcm":
        with av.open(io.BytesIO(data)) as container:
            assert container.duration == pytest.approx(30_000 / SAMPLE_RATE * 1e6, rel=0.05)


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_come_with_the_first_audio(form: Format) -> None:
    """No later than one frame of the codec: 0.1 s is more than any has."""
    first, second, *_ = told(form, hum(12_000), [6_000, 8_400])
    assert len(first + second) > 400
    assert len(decoded(form, first + second)) >= 4_000


def test_words_are_events_before_their_audio_at_the_speed_asked_for() -> None:
    words = (SpokenWord("Hello", 2_400), SpokenWord("there.", 12_000))
    chunks = [AudioChunk(hum(24_000), False, words), AudioChunk(hum(0), True)]
    for wanted in (True, False):
        telling = Telling("pcm", 2.0, "Hello there.", words=wanted)
        lines = b"".join(map(telling.tell, chunks)).decode().strip().split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        found = [(event["word"], event["start"]) for event in events if event["type"] == "speech.audio.word"]
        assert found == ([("Hello", 0.05), ("there.", 0.25)] if wanted else [])
        assert [event["type"] for event in events][len(found)] == "speech.audio.delta"


def test_plain_formats_are_themselves() -> None:
    samples = hum(5_000)
    wav, pcm = (b"".join(told(form, samples, [100])) for form in ("wav", "pcm"))
    assert wav[:4] == b"RIFF"
    assert wav[44:] == pcm
    assert len(pcm) == 10_000


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.9, 1.0, 1.7, 4.0])
def test_another_speed_keeps_the_pitch(speed: float) -> None:
    samples = hum(48_000)
    made = decoded("pcm", b"".join(told("pcm", samples, list(range(1_000, 48_000, 7_000)), speed)))
    assert abs(len(made) * speed / len(samples) - 1) < 0.04
    spectrum = np.abs(np.fft.rfft(made))
    assert abs(int(spectrum.argmax()) * SAMPLE_RATE / len(made) - 220) < 4
    assert (speed == 1.0) == np.array_equal(made, decoded("pcm", b"".join(told("pcm", samples, []))))
    assert len(Tempo(speed).stretch(samples[:0], final=True)) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_events_carry_the_same_bytes(form: Format) -> None:
    samples = hum(9_600)
    plain = b"".join(told(form, samples, [4_000]))
    events = b"".join(told(form, samples, [4_000], text="Ten chars.")).decode()
    found = [json.loads(line.removeprefix("data: ")) for line in events.strip().split("\n\n")]
    assert {one["type"] for one in found[:-1]} == {"speech.audio.delta"}
    audio = b"".join(b64decode(one["audio"]) for one in found[:-1])
    assert len(audio) == len(plain)
    assert form == "opus" or audio == plain  # Ogg numbers each of its streams at random
    assert found[-1] == {
        "type": "speech.audio.done", "usage": {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20},
    }  # fmt: skip
