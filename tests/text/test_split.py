"""Long text is split without loss, at good places, within the limit."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.text import split
from chatterbox_engine.text.languages import LANGUAGES, piece_characters

PROSE = (
    'Dr. Smith met Mr. J. R. Jones at 3.14 p.m. on Jan. 5, in the old town, e.g. by the market. He said: "Hello there! '
    'How are you?" She left. What?! No... Yes, but later; much later. '
)
CHINESE = "这是一个测试，我们都很好。你好吗？我很好！"

words = st.sampled_from(
    ["one", "Two", "three,", "four.", "Mr.", "e.g.", "3.14", "five!", "six?", "—", "...", "\n\n", "\n", "  ", "你好。"]
)
texts = st.one_of(st.text(max_size=600), st.lists(words, max_size=200).map(" ".join), st.lists(words).map("".join))


@settings(max_examples=300)
@given(text=texts, limit=st.integers(5, 120))
def test_split_keeps_every_character_within_the_limit(text: str, limit: int) -> None:
    pieces = split(text, limit)
    assert "".join("".join(piece.text for piece in pieces).split()) == "".join(text.split())
    assert all(len(piece.text) <= limit for piece in pieces)
    if len(text) > limit:
        assert all(piece.text.strip() for piece in pieces)
    assert all(split(piece.text, limit)[0].text == piece.text for piece in pieces)
    assert not pieces or pieces[-1].pause_s == 0


def test_short_text_stays_whole() -> None:
    for text in (" hello  there. You.\n\nBye ", PROSE, "x" * 300):
        assert [(piece.text, piece.pause_s) for piece in split(text)] == [(text, 0.0)]


@pytest.mark.parametrize("text", [PROSE * 20, CHINESE * 100])
def test_prose_is_split_at_sentence_ends_into_pieces_of_good_length(text: str) -> None:
    pieces = split(text)
    assert all(piece.text.endswith((".", "?", "!", '"', "。", "？", "！")) for piece in pieces)
    assert not any(piece.text.endswith(("Dr.", "Mr.", "J.", "R.", "3.", "p.m.", "Jan.", "e.g.")) for piece in pieces)
    assert all(100 <= len(piece.text) <= 300 for piece in pieces)
    assert {piece.pause_s for piece in pieces[:-1]} == {0.2}


def test_paragraphs_pause_longer_than_sentences() -> None:
    pieces = split(PROSE + "\n\n" + PROSE * 2)
    assert pieces[0].text == PROSE.strip()
    assert pieces[0].pause_s > pieces[1].pause_s > 0


def test_a_long_sentence_is_split_at_clauses_then_at_words_then_hard() -> None:
    clauses = split("and one more of them, " * 40)
    assert all(piece.text.endswith(",") and len(piece.text) > 200 for piece in clauses)
    unmarked = split("word " * 200)
    assert all(set(piece.text.split()) == {"word"} for piece in unmarked)
    assert [len(piece.text) for piece in split("x" * 700)] == [233, 233, 234]


def test_a_short_last_sentence_is_not_left_alone() -> None:
    assert min(len(piece.text) for piece in split("word " * 59 + "end. Yes.")) > 100


LONG = {"prose": PROSE * 26, "letters": "a " * 2048, "one word": "x" * 4096, "Chinese": CHINESE * 200}
LONG |= {f"{mark!r}": mark * 4096 for mark in "\n.(,"}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_eight_times_the_text_takes_some_eight_times_as_long(text: str) -> None:
    """Not 64 times, as where a pass goes through the text anew for each of its places."""

    def best(text: str) -> float:
        seconds = []
        for _ in range(5):
            begin = time.process_time()
            split(text)
            seconds.append(time.process_time() - begin)
        return min(seconds)

    assert best(text) < 24 * best(text[: len(text) // 8])


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_its_own_size_and_keeps_every_character(language: str) -> None:
    for text in (PROSE * 4, CHINESE * 20):
        pieces = split(text, language=language)
        assert "".join("".join(piece.text for piece in pieces).split()) == "".join(text.split())
        longest = max(len(piece.text) for piece in pieces)
        assert 0.5 * piece_characters(language) < longest <= piece_characters(language)


def test_sentences_are_the_language_s_own() -> None:
    german = "Das ist z.B. so. " * 30
    assert all(not piece.text.endswith("z.B.") for piece in split(german, language="de"))
    hindi = "यह एक परीक्षण है। " * 40
    assert all(piece.text.endswith("।") for piece in split(hindi, language="hi"))
    arabic = "هذا اختبار، " * 60
    assert all(piece.text.endswith("،") for piece in split(arabic, language="ar"))


def test_a_tag_of_two_words_stays_whole() -> None:
    for length in range(20, 60):
        pieces = split("word [clear throat] word, yes " * 20, length)
        assert sum(piece.text.count("[clear throat]") for piece in pieces) == 20
