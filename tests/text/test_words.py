"""Which words have begun, by where attention stands."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.checkpoint import find
from chatterbox_engine.text.words import Follower, Word, in_text
from chatterbox_engine.types import Begun

WORDS = [Word("One", 1), Word("two", 5), Word("three.", 9)]


def followed(places: Sequence[int], spoken: int = 0) -> list[Begun]:
    return list(Follower(WORDS, spoken).follow(places))


def test_words_begin_where_attention_comes_to_them() -> None:
    assert followed([0, 1, 3, 5, 5, 8, 10]) == [Begun("One", 1), Begun("two", 3), Begun("three.", 6)]
    assert followed([1, 2], spoken=10) == [Begun("One", 10)]


def test_one_look_elsewhere_is_none_and_two_are_a_jump() -> None:
    assert followed([1, 2, 30, 3, 4]) == [Begun("One", 0)]
    assert followed([1, 2, 10, 11]) == [Begun("One", 0), Begun("two", 3), Begun("three.", 3)]


@given(st.lists(st.integers(0, 12), max_size=40), st.lists(st.integers(0, 40), max_size=3))
def test_cut_anyhow_it_is_the_same_and_each_word_begins_once_in_order(places: list[int], cuts: list[int]) -> None:
    whole, parts = followed(places), Follower(WORDS)
    edges = [0, *sorted(min(cut, len(places)) for cut in cuts), len(places)]
    found = [word for begin, end in pairwise(edges) for word in parts.follow(places[begin:end])]
    assert found == whole
    assert [word.text for word in whole] == [word.text for word in WORDS][: len(whole)]
    assert [word.token for word in whole] == sorted(word.token for word in whole)


def test_words_are_found_only_where_there_are_as_many() -> None:
    assert in_text("one  two", "One two") == [("One", 0), ("two", 5)]
    assert in_text("one two three", "One two") == []


@pytest.mark.parametrize(
    ("model", "language", "text", "words"),
    [
        ("dummy:chatterbox", "en", "Hello there, my friend.", ["Hello", "there,", "my", "friend."]),
        ("dummy:chatterbox-multilingual", "de", "Guten Tag, wie geht's?", ["Guten", "Tag,", "wie", "geht's?"]),
        ("dummy:chatterbox-multilingual", "ko", "안녕 하세요", ["안녕", "하세요"]),
        ("dummy:chatterbox-multilingual", "zh", "你好吗", []),
        ("demo", "en", "Dr. Smith paid $5.20 - twice!", ["Dr", "Smith", "paid", "$5.20", "twice!"]),
    ],
)
def test_each_word_begins_at_its_first_id(model: str, language: str, text: str, words: list[str]) -> None:
    tokenizer = find(model, "cpu").tokenizer()
    ids, found = tokenizer.read(text, language)
    assert ids == tokenizer.encode(text, language)
    assert [word.text for word in found] == words
    firsts = [word.first for word in found]
    assert firsts == sorted(set(firsts))
    assert all(0 < first < len(ids) - 1 for first in firsts)
    if model == "demo" and words:  # what is before a word is a space, but at the beginning
        space = tokenizer.encode("a b", language)[2]
        assert {ids[first - 1] for first in firsts[1:]} == {space}
