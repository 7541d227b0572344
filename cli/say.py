"""say: speak a text, into a file or to the loudspeaker, with or without a running service."""

import argparse
import contextlib
import sys
import time
from collections.abc import Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

import soundfile
from torch import Tensor

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.tts import OptimizedChatterboxTTS
from chatterbox_engine.types import SAMPLE_RATE
from chatterbox_engine.utterance import StreamingMetrics
from cli import server
from cli.files import output
from cli.player import Player
from deployments.encoding import Format
from deployments.wav import pcm16

_BYTES_PER_SECOND = 2 * SAMPLE_RATE
_OWN_HEADERS = (".wav", ".flac", ".ogg")
"""Files whose headers tell their length, which a stream's cannot: written here, from samples."""
_ENCODED = (".mp3", ".opus", ".aac", ".pcm")
"""Files that the service writes; whole, so that they tell their length too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", help="- reads it from standard input")
    parser.add_argument("-o", "--output", type=Path, help="a file; without one the loudspeaker")
    parser.add_argument("--voice", help="with a service a voice's name or id, without one a clip of it")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--model", default="auto", help="without a service: auto, demo, dummy:NAME, a folder or a hub id"
    )
    parser.add_argument("--device", default="auto", help="without a service: auto, cpu, cuda or cuda:N")
    server.add_arguments(parser)


def run(given: argparse.Namespace) -> None:
    """Raises InvalidRequest, ModelUnavailable, Unanswered."""
    text = sys.stdin.read() if given.text == "-" else given.text
    if given.server:
        _ask(server.Server(given.server), text, given)
    else:
        _make(text, given)


def _ask(service: server.Server, text: str, given: argparse.Namespace) -> None:
    """By a service: into a file in the format that its name ends with, or to the loudspeaker."""
    path: Path | None = given.output
    kind = "" if path is None else path.suffix.lower()
    form = "pcm" if path is None or kind in _OWN_HEADERS else kind.removeprefix(".")
    if form not in get_args(Format):
        raise InvalidRequest(f"{path} ends with none of {', '.join((*_OWN_HEADERS, *_ENCODED))}.", "output")
    asked = {"input": text, "voice": given.voice, "seed": given.seed, "response_format": form}
    asked["stream"] = False if kind in _ENCODED else None
    body = {name: value for name, value in asked.items() if value is not None}
    begin = time.monotonic()
    parts = service.parts("POST", "/v1/audio/speech", json=body)
    if path is None:
        with Player() as player:
            for data in _told(parts, begin):
                player.write(data)
        return
    parts = chain([next(parts, b"")], parts)  # a refusal leaves no file
    with output(path) as part:
        if kind in _OWN_HEADERS:
            with _opened(part) as sound:
                for data in _told(parts, begin):
                    sound.buffer_write(data, "int16")
        else:
            with part.open("wb") as file:
                file.writelines(parts)


def _told(parts: Iterator[bytes], begin: float) -> Iterator[bytes]:
    """PCM in whole samples, with a line that says how it goes; `begin`: when it was asked for."""
    first, count, kept = None, 0, b""
    for part in parts:
        whole = (len(kept) + len(part)) // 2 * 2
        data, kept = (kept + part)[:whole], (kept + part)[whole:]
        count += len(data)
        took = time.monotonic() - begin
        first = first or took
        _say(count / _BYTES_PER_SECOND, first, took * _BYTES_PER_SECOND / max(1, count))
        yield data
    print(file=sys.stderr)


def _make(text: str, given: argparse.Namespace) -> None:
    """In this process."""
    with contextlib.closing(OptimizedChatterboxTTS.from_pretrained(given.device, model=given.model)) as tts:
        print(f"{tts.checkpoint.model} on {tts.device}. {tts.checkpoint.spec.note}", file=sys.stderr)
        stream = tts.generate_stream(text, audio_prompt_path=given.voice, seed=given.seed)
        if given.output is None:
            with Player() as player:
                for chunk in _chunks(stream):
                    player.write(pcm16(chunk[0].numpy()))
            return
        with _opened(given.output) as file:
            for chunk in _chunks(stream):
                file.write(chunk[0].numpy())


def _opened(path: Path) -> soundfile.SoundFile:
    """Raises InvalidRequest where no audio file can be made there."""
    try:
        return soundfile.SoundFile(path, "w", SAMPLE_RATE, channels=1)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be written as .wav, .flac, .ogg or .mp3: {error}", "output") from error


def _chunks(stream: Generator[tuple[Tensor, StreamingMetrics], None, None]) -> Iterator[Tensor]:
    with contextlib.closing(stream):
        for chunk, metrics in stream:
            yield chunk
            _say(metrics.total_audio_duration, metrics.latency_to_first_chunk, metrics.rtf)
    print(file=sys.stderr)


def _say(seconds: float, first: float, factor: float) -> None:
    told = f"\r{seconds:.2f} s of audio, the first after {first:.2f} s, real-time factor {factor:.2f}"
    print(told, end="", file=sys.stderr)
