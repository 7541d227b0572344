"""Text that arrives as a language model writes it, parted into what can be spoken already."""

import re

from chatterbox_engine.text.sentences import sentences

_LEAST = 12
"""Characters below which a sentence waits for the next one: T3 speaks very short pieces badly."""
_LONG = 60
"""Characters from which on a clause is spoken before its sentence has ended."""
_CLAUSE_END = re.compile(r"(?<![,;:—–，、；：،؛])[,;:—–，、；：،؛]+[\"'”’»）)]*\s+(?=\S)")
"""Looked for at the first of some marks alone, so that a long run of them takes no longer than its length."""


class Clauses:
    """Fed with pieces of text of any size; gives out sentences and, of long ones, clauses, each once it is known to
    have ended: something has followed it. All that comes out in a row is the text but for white space between."""

    def __init__(self, language: str = "en") -> None:
        self._language = language
        self._text = ""

    def push(self, text: str) -> list[str]:
        """What has become speakable with it."""
        self._text += text
        found: list[str] = []
        whole = ""
        for sentence in sentences(self._language, self._text)[:-1]:
            whole += sentence
            if len(whole.strip()) >= _LEAST:
                found.append(whole.strip())
                self._text, whole = self._text[len(whole) :], ""
        if not found and (ends := [match.end() for match in _CLAUSE_END.finditer(self._text)]):
            end = max((end for end in ends if end >= _LONG), default=0)
            if clause := self._text[:end].strip():
                found.append(clause)
                self._text = self._text[end:]
        return found

    def flush(self) -> list[str]:
        """All that is left, ended or not."""
        rest, self._text = self._text.strip(), ""
        return [rest] if rest else []
