"""What may be spoken, and why the rest may not."""

from typing import Any

import pytest

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.text import validate


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("a" * 101, "101 characters; at most 100"),
        ("one\x00two", r"U\+0000, at character 3"),
        ("bell\x07", r"U\+0007"),
        ("half \ud83d", r"surrogate pair, U\+D83D, at character 5"),
        ("😀🎉", "no letter or digit"),
        ("?!... —", "no letter or digit"),
        (7, "must be a string, not int"),
        (None, "must be a string"),
    ],
)
def test_validate_says_what_is_wrong(text: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        validate(text, 100)
    assert caught.value.param == "input"


@pytest.mark.parametrize("text", ["Hello.", "a\r\n\tb", "你好", "नमस्ते", "مرحبا", "3", "😀 yes", "x" * 100])
def test_validate_lets_speakable_text_through(text: str) -> None:
    assert validate(text, 100) == text
