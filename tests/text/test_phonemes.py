"""Text as the bundled model's phonemes: everything is read, in a time that does not run away."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.text import phonemes
from chatterbox_engine.text.phonemes import Phonemizer


@pytest.fixture(scope="module")
def phonemizer() -> Phonemizer:
    return Phonemizer()


@given(text=st.text(alphabet="aX19 ,.;:!?-/'\"$%&@#(é①²½३一—’\u00a0\n", max_size=40))
@settings(max_examples=30)
def test_whatever_stands_there_is_read(phonemizer: Phonemizer, text: str) -> None:
    said, words = phonemizer.read(text)
    assert said == said.strip()
    assert all(0 <= place < len(said) for _, place in words)


def test_digits_in_circles_are_read_as_digits(phonemizer: Phonemizer) -> None:
    assert phonemizer("①Open the app.") == phonemizer("1Open the app.")


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
