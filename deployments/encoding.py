"""Audio in the formats of OpenAI's speech API, encoded while it streams, and at other speeds."""

import base64
import io
import json
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

import av
import numpy as np
from av.audio.stream import AudioStream

from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_TOKEN, AudioChunk, SpokenWord
from deployments.wav import pcm16, wav_header

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
_TIME_BASE = Fraction(1, SAMPLE_RATE)
_NOTHING = np.zeros(0, np.float32)


class _Codec(NamedTuple):
    container: str
    codec: str
    media_type: str
    bit_rate: int | None
    options: dict[str, str]
    """Of the container, where it streams: nothing can be written at its head later."""


_CODECS: dict[str, _Codec] = {
    "mp3": _Codec("mp3", "libmp3lame", "audio/mpeg", 64_000, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": _Codec("ogg", "libopus", "audio/ogg", 48_000, {"page_duration": "20000"}),
    "aac": _Codec("adts", "aac", "audio/aac", 64_000, {}),
    "flac": _Codec("flac", "flac", "audio/flac", None, {}),
}


class Encoder(Protocol):
    """Samples (n,) float32 in [-1, 1] at SAMPLE_RATE in, bytes out."""

    media_type: str

    def encode(self, samples: np.ndarray, *, final: bool) -> bytes:
        """What can be told by now; after `final` there is no more."""


def encoder(form: Format, *, whole: bool = False) -> Encoder:
    """A new stream's. `whole`: all of it comes with the last bytes, as a file that tells its length."""
    if form in ("wav", "pcm"):
        return Whole(form) if whole else Plain(form)
    return Coded(_CODECS[form], whole=whole)


class Plain:
    """16-bit PCM, with a header for wav."""

    def __init__(self, form: str) -> None:
        self.media_type = f"audio/{form}"
        self._header = wav_header() if form == "wav" else b""

    def encode(self, samples: np.ndarray, *, final: bool) -> bytes:
        header, self._header = self._header, b""
        return header + pcm16(samples)


class Whole:
    """16-bit PCM at its end, with a header for wav that tells how much it is."""

    def __init__(self, form: str) -> None:
        self.media_type = f"audio/{form}"
        self._told = bytearray()

    def encode(self, samples: np.ndarray, *, final: bool) -> bytes:
        self._told += pcm16(samples)
        if not final:
            return b""
        return (wav_header(len(self._told)) if self.media_type == "audio/wav" else b"") + self._told


class _Sink:
    """A file that only grows, and is emptied."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken


class Coded:
    """By FFmpeg's codecs, through PyAV."""

    def __init__(self, codec: _Codec, *, whole: bool) -> None:
        self.media_type = codec.media_type
        self._file = io.BytesIO() if whole else _Sink()
        options = {} if whole else {**codec.options, "flush_packets": "1"}
        self._container = av.open(self._file, "w", format=codec.container, options=options)
        stream = self._container.add_stream(codec.codec, rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        if codec.bit_rate is not None:
            stream.bit_rate = codec.bit_rate
        self._stream = stream
        self._samples = 0

    def encode(self, samples: np.ndarray, *, final: bool) -> bytes:
        if len(samples):
            self._container.mux(self._stream.encode(audio_frame(_whole(samples), self._samples)))
            self._samples += len(samples)
        if final:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        if isinstance(self._file, _Sink):
            return self._file.take()
        return self._file.getvalue() if final else b""


class Tempo:
    """Faster or slower without another pitch: FFmpeg's atempo (waveform similarity overlap-add)."""

    def __init__(self, speed: float) -> None:
        """`speed`: 0.25 to 4."""
        self._samples = 0
        self._graph: Any = None
        if speed == 1.0:
            return
        self._graph = graph = av.filter.Graph()
        parts = [graph.add_abuffer(sample_rate=SAMPLE_RATE, format="s16", layout="mono", time_base=_TIME_BASE)]
        parts += [graph.add("atempo", str(speed**0.5)) for _ in range(2)]  # each at its best between a half and two
        parts.append(graph.add("abuffersink"))
        graph.link_nodes(*parts).configure()

    def stretch(self, samples: np.ndarray, *, final: bool) -> np.ndarray:
        """Samples (n,) in, those that can be told by now out."""
        if self._graph is None:
            return samples
        if len(samples):
            self._graph.push(audio_frame(_whole(samples), self._samples))
            self._samples += len(samples)
        if final:
            self._graph.push(None)
        made = [_NOTHING]
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(made)
            made.append(frame.to_ndarray()[0].astype(np.float32) / 32767.0)


def _whole(samples: np.ndarray) -> np.ndarray:
    return np.frombuffer(pcm16(samples), np.int16)


def audio_frame(samples: np.ndarray, start: int) -> av.AudioFrame:
    """PyAV's frame of (n,) samples in 16 bits, the first of which is number `start`."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, _TIME_BASE
    return frame


CONTENT: dict[str, Any] = {
    kind: {} for kind in ("audio/wav", "audio/pcm", *(own.media_type for own in _CODECS.values()), "text/event-stream")
}
"""What a body may be, as OpenAPI has it."""


class Telling:
    """A response's bytes, chunk by chunk: at its listener's speed, in its format and, where it asked so, as OpenAI's
    server-sent events."""

    def __init__(
        self, form: Format, speed: float, text: str | None, *, words: bool = False, whole: bool = False
    ) -> None:
        """`text`: of a response in events, for the count at its end; `words`: with an event for each word; `whole`: all
        of it comes with the last chunk, as a file that tells its length."""
        self._speed = speed
        self._words = words
        self._tempo = Tempo(speed)
        self._encoder = encoder(form, whole=whole)
        self._text = text
        self._samples = 0
        self.media_type = self._encoder.media_type if text is None else "text/event-stream"

    def tell(self, chunk: AudioChunk) -> bytes:
        """What the chunk adds; it may be nothing yet."""
        self._samples += len(chunk.samples)
        data = self._encoder.encode(self._tempo.stretch(chunk.samples, final=chunk.final), final=chunk.final)
        if self._text is None:
            return data
        told = b"".join(self._word(word) for word in chunk.words) if self._words else b""
        told += _event("delta", audio=base64.b64encode(data).decode()) if data else b""
        return told + self._done() if chunk.final else told

    def _word(self, word: SpokenWord) -> bytes:
        """Seconds are those of the audio as it is told."""
        return _event("word", word=word.text, start=round(word.sample / SAMPLE_RATE / self._speed, 3))

    def _done(self) -> bytes:
        """Tokens in are the text's characters, tokens out those of speech, 25 a second, before any change of speed."""
        text, speech = len(self._text or ""), round(self._samples / SAMPLES_PER_TOKEN)
        return _event("done", usage={"input_tokens": text, "output_tokens": speech, "total_tokens": text + speech})


def _event(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': f'speech.audio.{kind}', **fields})}\n\n".encode()
