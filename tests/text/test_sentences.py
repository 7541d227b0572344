"""Sentences: together they are the text, whatever characters it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.text.sentences import sentences


@given(
    st.text(alphabet='aA .!?\n\r\t"é\u00a0\u2003\u3000。', max_size=60),
    st.sampled_from(["en", "de", "fr", "ja", "zh", "xx"]),
)
def test_sentences_are_the_text(text: str, language: str) -> None:
    assert "".join(sentences(language, text)) == text


@pytest.mark.parametrize("text", ["A\u00a0. B is next.", "mit Vitamin C\u3000. Dann geht es.", "X\u2003."])
def test_white_space_of_several_bytes_does_no_harm(text: str) -> None:
    """sentencex 1.0.32 panics where it follows a capital and a full stop follows it."""
    assert "".join(sentences("en", text)) == text
