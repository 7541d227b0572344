"""Text on its way to T3: validated, split into pieces, normalised, tokenised."""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import sentencex
from tokenizers import Tokenizer

from chatterbox_engine.errors import InvalidRequest, ModelUnavailable
from chatterbox_engine.spec import T3Spec

_SPACE = "[SPACE]"
_WAY_OUT = "Download the checkpoint again, or use model `demo`, which needs no files."
_SILENT_TEXT = "You need to add some text for me to talk."


@dataclass(frozen=True)
class _Rules:
    """How a family's text is normalised."""

    replacements: tuple[tuple[str, str], ...]
    """Applied one after the other."""
    endings: tuple[str, ...]
    """A text that ends in none of these gets a full stop."""


_MARKS = (("—", "-"), ("–", "-"), (" ,", ","), ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"))
_FULL = (("...", ", "), ("…", ", "), (":", ","), (" - ", ", "), (";", ", "), *_MARKS)
_LIGHT = (("…", ", "), (":", ","), *_MARKS)
_ENDINGS = (".", "!", "?", "-", ",")
_RULES = {
    "chatterbox": _Rules(_FULL, _ENDINGS),
    "chatterbox-multilingual": _Rules(_FULL, (*_ENDINGS, "、", "，", "。", "？", "！")),
    "chatterbox-turbo": _Rules(_LIGHT, _ENDINGS),
    "chatterbox-nano": _Rules(_LIGHT, _ENDINGS),
}


def normalise(text: str, family: str = "chatterbox") -> str:
    """The text as the family's model was trained to read it: what chatterbox-tts's `punc_norm` makes of it.

    Raises InvalidRequest for an unknown family.
    """
    if family not in _RULES:
        raise InvalidRequest(f"There is no family {family!r}. Families: {', '.join(_RULES)}.", "family")
    rules = _RULES[family]
    if not text:
        return _SILENT_TEXT
    if text[0].islower():
        text = text[0].upper() + text[1:]
    text = " ".join(text.split())
    for old, new in rules.replacements:
        text = text.replace(old, new)
    text = text.rstrip(" ")
    return text if text.endswith(rules.endings) else text + "."


class TextTokenizer:
    """The model's own byte-pair vocabulary; `where` names its source in errors.

    Raises ModelUnavailable where it is another model's.
    """

    def __init__(self, tokenizer: Tokenizer, spec: T3Spec, where: str) -> None:
        vocabulary = tokenizer.get_vocab()
        for token, wanted in (("[START]", spec.start_text), ("[STOP]", spec.stop_text), (_SPACE, None)):
            found = vocabulary.get(token)
            if found is None or wanted not in (None, found):
                place = "" if wanted is None else f" as id {wanted}"
                raise ModelUnavailable(f"{where} does not have {token}{place}: it is another model's. {_WAY_OUT}")
        if max(vocabulary.values()) >= spec.text_vocab:
            raise ModelUnavailable(
                f"{where} has ids up to {max(vocabulary.values())}, but the model has {spec.text_vocab} text tokens: "
                f"it is another model's. {_WAY_OUT}"
            )
        self._tokenizer = tokenizer
        self._start, self._stop = spec.start_text, spec.stop_text

    @classmethod
    def from_file(cls, path: Path, spec: T3Spec) -> "TextTokenizer":
        """Read a `tokenizer.json`. Raises ModelUnavailable where it is absent, no tokenizer, or another model's."""
        if not path.is_file():
            raise ModelUnavailable(f"{path} is missing. {_WAY_OUT}")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise ModelUnavailable(f"{path} is not a tokenizer ({error}). {_WAY_OUT}") from error
        return cls(tokenizer, spec, str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised text, between the start and the stop token."""
        return [self._start, *self._tokenizer.encode(text.replace(" ", _SPACE)).ids, self._stop]


def validate(text: str, max_characters: int) -> str:
    """The text as it is, if it can be spoken. Raises InvalidRequest (param "input") saying why not."""
    if not isinstance(text, str):
        raise InvalidRequest(f"The input must be a string, not {type(text).__name__}.", "input")
    if not text.strip():
        raise InvalidRequest("The input is empty. Give it some text to speak.", "input")
    if len(text) > max_characters:
        raise InvalidRequest(
            f"The input has {len(text)} characters; at most {max_characters} are allowed. Send it in parts.", "input"
        )
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidRequest(
                f"The input is not valid Unicode: half a surrogate pair, U+{ord(character):04X}, at character {place}. "
                "Encode it as UTF-8.",
                "input",
            )
        if category == "Cc" and character not in "\n\r\t":
            raise InvalidRequest(
                f"The input has a control character, U+{ord(character):04X}, at character {place}. Remove it.", "input"
            )
    if not any(character.isalnum() for character in text):
        raise InvalidRequest("The input has no letter or digit, so there is nothing to speak.", "input")
    return text


class _Break(Enum):
    """Where a text may be parted: the pause there in seconds, and its cost beside that of a piece left empty (1)."""

    PARAGRAPH = (0.6, -0.9)
    SENTENCE = (0.2, 0.0)
    CLAUSE = (0.1, 0.25)
    WORD = (0.0, 0.6)
    HARD = (0.0, 1.2)

    def __init__(self, pause_s: float, cost: float) -> None:
        self.pause_s = pause_s
        self.cost = cost


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that T3 speaks in one go."""

    text: str
    pause_s: float
    """Seconds of silence after it."""


_CLOSING = "\"'”’»）)」』】\\]"
_ATOM = re.compile(rf"[^\s。！？，、；：]*[。！？，、；：]+[{_CLOSING}]*|[^\s。！？，、；：]+")
"""A word with its punctuation; in a script without spaces, what stands up to a mark."""
_CLAUSE_END = re.compile(rf"[,;:—–，、；：][{_CLOSING}]*$")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def split(text: str, max_characters: int = 300) -> list[Piece]:
    """Part a text into pieces of at most `max_characters`; one that fits stays whole, as it is.

    Very short and very long pieces make T3 hallucinate. So the parting is the one of least raggedness, as paragraphs
    are set in lines (D. Knuth and M. Plass, 1981): each piece costs the cube of the share it lacks to the limit, and
    each break costs what its kind does, sentence ends the least but for paragraphs. Sentences are those of `sentencex`.
    """
    if len(text) <= max_characters:
        return [Piece(text, 0.0)]
    starts, ends = _atoms(text, max_characters)
    breaks = _breaks(text, starts, ends)
    costs = np.array([0.0, *(kind.cost for kind in breaks)])  # of the break before an atom
    first, last = np.array(starts), np.array(ends)
    earliest = np.searchsorted(first, last - max_characters)  # first atom with which a piece ending here fits
    best = np.zeros(len(starts) + 1)  # [i]: cost of the atoms before i, parted best
    begins = np.zeros(len(starts) + 1, int)  # [i]: the first atom of the piece that ends before atom i
    for i in range(1, len(starts) + 1):
        low = earliest[i - 1]
        raggedness = (1.0 - (last[i - 1] - first[low:i]) / max_characters) ** 3
        total = best[low:i] + raggedness + costs[low:i]
        choice = int(total.argmin())
        best[i], begins[i] = total[choice], low + choice
    pieces: list[Piece] = []
    end = len(starts)
    while end:
        begin = int(begins[end])
        pause_s = breaks[end - 1].pause_s if pieces else 0.0
        pieces.append(Piece(text[starts[begin] : ends[end - 1]], pause_s))
        end = begin
    return pieces[::-1]


def _atoms(text: str, max_characters: int) -> tuple[list[int], list[int]]:
    """Starts and ends of what is not parted; a longer word is cut into equal parts."""
    starts: list[int] = []
    ends: list[int] = []
    for match in _ATOM.finditer(text):
        parts = -(-len(match.group()) // max_characters)
        cuts = [match.start() + len(match.group()) * part // parts for part in range(parts + 1)]
        starts += cuts[:-1]
        ends += cuts[1:]
    return starts, ends


def _breaks(text: str, starts: list[int], ends: list[int]) -> list[_Break]:
    """The kind of break after each atom but the last."""
    sentence_ends: set[int] = set()
    position = 0
    for sentence in sentencex.segment("en", text):
        sentence_ends.add(position + len(sentence.rstrip()))
        position += len(sentence)
    kinds = []
    for start, end, following in zip(starts, ends, starts[1:], strict=False):
        if _BLANK_LINE.search(text, end, following):
            kinds.append(_Break.PARAGRAPH)
        elif end in sentence_ends:
            kinds.append(_Break.SENTENCE)
        elif _CLAUSE_END.search(text[start:end]):
            kinds.append(_Break.CLAUSE)
        else:
            kinds.append(_Break.WORD if following > end else _Break.HARD)
    return kinds
