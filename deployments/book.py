"""A long text as chapters and pieces, and its pieces' sound as one file with chapters."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream

from chatterbox_engine.files import whole
from chatterbox_engine.text import Piece, split
from chatterbox_engine.types import SAMPLE_RATE
from deployments.encoding import audio_frame

BookFormat = Literal["m4b", "mp3", "opus", "flac", "wav"]

_HEADING = re.compile(r"^#{1,6}[^\S\n]+(\S.*)$", re.MULTILINE)
_CHAPTER_PAUSE_S = 1.5
_BLOCK = 10 * SAMPLE_RATE
"""Samples encoded at a time."""
_TIME_BASE = Fraction(1, SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading and what stands below it, the heading said first."""

    title: str
    pieces: tuple[Piece, ...]


def chapters(text: str, title: str, max_characters: int | None, language: str) -> list[Chapter]:
    """The parts that a text's Markdown headings (`# One`) make of it, in pieces that T3 speaks well.

    What stands before the first heading is a chapter by the book's title; headings with nothing to say are left out.
    """
    places = [match.start() for match in _HEADING.finditer(text)]
    found = []
    for begin, end in pairwise([0, *places, len(text)]):
        heading = _HEADING.match(text, begin, end)
        name = _named(heading.group(1)) if heading else title
        stop = "" if name[-1] in ".!?…:" else "."
        said = f"{name}{stop}\n\n{text[heading.end() : end].strip()}" if heading else text[begin:end]
        if not any(character.isalnum() for character in said):
            continue
        *most, last = split(said.strip(), max_characters, language)
        found.append(Chapter(name, (*most, replace(last, pause_s=_CHAPTER_PAUSE_S))))
    if found:
        *most, last = found[-1].pieces
        found[-1] = replace(found[-1], pieces=(*most, replace(last, pause_s=0.0)))
    return found


def _named(heading: str) -> str:
    """Without the number signs that may close it."""
    return heading.rstrip().rstrip("#").rstrip() or heading


class _Codec(NamedTuple):
    container: str
    codec: str
    bit_rate: int | None
    media_type: str


_CODECS: dict[str, _Codec] = {
    "m4b": _Codec("ipod", "aac", 64_000, "audio/mp4"),
    "mp3": _Codec("mp3", "libmp3lame", 64_000, "audio/mpeg"),
    "opus": _Codec("ogg", "libopus", 32_000, "audio/ogg"),
    "flac": _Codec("flac", "flac", None, "audio/flac"),
    "wav": _Codec("wav", "pcm_s16le", None, "audio/wav"),
}
MEDIA_TYPES = {form: codec.media_type for form, codec in _CODECS.items()}
WITH_CHAPTERS = ("m4b", "mp3", "opus")
"""Formats whose files say where chapters begin; of the others the job alone does."""


def bind(
    sounds: Iterable[np.ndarray], marks: list[tuple[str, int, int]], title: str, form: BookFormat, path: Path
) -> None:
    """Encode sounds, each (n,) int16 at SAMPLE_RATE, one after the other into a file; it is there whole or not at all.

    Args:
        marks: each chapter's title, first sample and end.
    """
    codec = _CODECS[form]
    with whole(path) as part, av.open(str(part), "w", format=codec.container) as container:
        container.metadata["title"] = title
        if form in WITH_CHAPTERS:
            container.set_chapters([_mark(number, *mark) for number, mark in enumerate(marks)])
        stream = container.add_stream(codec.codec, rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        if codec.bit_rate is not None:
            stream.bit_rate = codec.bit_rate
        at = 0
        for block in _blocks(sounds):
            container.mux(stream.encode(audio_frame(block, at)))
            at += len(block)
        container.mux(stream.encode(None))


def _mark(number: int, title: str, begin: int, end: int) -> Any:
    return {"id": number, "start": begin, "end": end, "time_base": _TIME_BASE, "metadata": {"title": title}}


def _blocks(sounds: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for sound in sounds:
        for begin in range(0, len(sound), _BLOCK):
            yield sound[begin : begin + _BLOCK]
