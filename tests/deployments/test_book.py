"""Long texts as chapters and pieces, and their sound as one file."""

import io
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from deployments.book import WITH_CHAPTERS, BookFormat, bind, chapters

TEXT = "A word before.\n\n# One\nIt was a night. It rained.\n\n## And two! ##\n\n" + "It rained on and on. " * 40


def test_headings_begin_chapters_and_are_said() -> None:
    before, one, two = chapters(TEXT, "The Book", 300, "en")
    assert [part.title for part in (before, one, two)] == ["The Book", "One", "And two!"]
    assert [piece.text for piece in before.pieces] == ["A word before."]
    assert [piece.text for piece in one.pieces] == ["One.\n\nIt was a night. It rained."]
    assert two.pieces[0].text.startswith("And two!\n\n")
    assert [part.pieces[-1].pause_s for part in (before, one, two)] == [1.5, 1.5, 0.0]


def test_a_heading_with_nothing_to_say_is_left_out() -> None:
    assert [part.title for part in chapters("# ***\n\n# One\n\n#\n", "Book", 300, "en")] == ["One"]


def test_a_heading_is_read_once_however_long() -> None:
    """Were it looked through from each of its blanks, this would not end."""
    (part,) = chapters("# a" + " " * 200_000 + "b ##\n\nText.", "Book", 300, "en")
    assert part.title == "a" + " " * 200_000 + "b"


@given(st.text(st.sampled_from("# \nab.é,"), max_size=200))
def test_every_letter_is_in_one_piece_in_order(text: str) -> None:
    parts = chapters(text, "Book", 20, "en")
    said = "".join(piece.text for part in parts for piece in part.pieces)
    assert [c for c in said if c.isalnum()] == [c for c in text if c.isalnum()]
    assert all(len(piece.text) <= 20 and piece.text.strip() for part in parts for piece in part.pieces)


@pytest.mark.parametrize("form", get_args(BookFormat))
def test_a_file_is_as_long_as_its_pieces_and_has_its_chapters(form: BookFormat, tmp_path: Path) -> None:
    time = np.arange(96_000) / 24_000
    sound = (8_000 * np.sin(2 * np.pi * 220 * time)).astype(np.int16)
    path = tmp_path / f"book.{form}"
    bind([sound[:30_000], sound[30_000:]], [("One", 0, 30_000), ("Two", 30_000, 96_000)], "Book", form, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with av.open(str(path)) as container:
        marks = [(mark["metadata"]["title"], float(mark["start"] * mark["time_base"])) for mark in container.chapters()]
        rate = container.streams.audio[0].rate
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / rate
    assert seconds == pytest.approx(4.0, abs=0.05)
    expected = [("One", 0.0), ("Two", pytest.approx(1.25, abs=0.002))] if form in WITH_CHAPTERS else []
    assert marks == expected
    if form in ("flac", "wav"):
        samples, _ = soundfile.read(io.BytesIO(path.read_bytes()), dtype="int16")
        np.testing.assert_array_equal(samples, sound)
