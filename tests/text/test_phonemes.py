"""Text as the bundled model's phonemes: everything is read, in a time that does not run away."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine import demo
from chatterbox_engine.spec import ModelSpec
from chatterbox_engine.text import phonemes, split
from chatterbox_engine.text.phonemes import Phonemizer


@pytest.fixture(scope="module")
def phonemizer() -> Phonemizer:
    return Phonemizer()


@given(text=st.text(alphabet="aX19 ,.;:!?-/'\"$%&@#(é①²½३一—’\u00a0\n", max_size=40))
@settings(max_examples=30)
def test_whatever_stands_there_is_read(phonemizer: Phonemizer, text: str) -> None:
    said, words = phonemizer.read(text)
    assert said == said.rstrip()
    assert all(0 <= place < len(said) for _, place in words)


def test_digits_in_circles_are_read_as_digits(phonemizer: Phonemizer) -> None:
    assert phonemizer("①Open the app.") == phonemizer("1Open the app.")
    assert phonemizer("⑴⓶") == phonemizer("(1) 2")


@pytest.mark.parametrize(
    "text",
    ["Sales were 1,234,567 and 2,345,678, then 3,456,789 and 4,567,890. " * 3, "1,234,567 " * 30, "%1" * 150,
     "Call 555-0123-4567 or 555-9876-5432 now. " * 6, "1" * 300, "1a" * 150, "Nothing but words. " * 20],
)  # fmt: skip
def test_figures_make_pieces_that_the_bundled_model_can_read(phonemizer: Phonemizer, text: str) -> None:
    """They are said at several times their length."""
    spec = ModelSpec.load(Path(demo.__path__[0]) / "config.json")
    pieces = split(text, spec.piece_characters)
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(text.split())
    assert max(len(phonemizer(piece.text)) + 2 for piece in pieces) <= spec.t3.max_text_tokens


def test_long_words_are_parted_behind_their_marks(phonemizer: Phonemizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(phonemizer, "_sentences", lambda text: seen.append(text) or [text])
    phonemizer.read("one two")
    phonemizer.read("red/green/blue/yellow/purple/orange/black, and " + "1" * 70)
    assert seen == [
        "one two",
        "red/green/blue/yellow/purple/ orange/black, and " + " ".join(("1" * 30, "1" * 30, "1" * 10)),
    ]
    assert all(len(word) <= phonemes._LONGEST for word in seen[1].split())
