"""A text's sentences, by `sentencex`."""

import re

import sentencex

_BLANK = re.compile(r"[^\S\n]")


def sentences(language: str, text: str) -> list[str]:
    """In order, with the white space behind each: together they are the text.

    sentencex reads plain spaces for all others within a line, since some of more than a byte make it panic.
    """
    found, begin = [], 0
    for sentence in sentencex.segment(language, _BLANK.sub(" ", text)):
        found.append(text[begin : begin + len(sentence)])
        begin += len(sentence)
    return found
