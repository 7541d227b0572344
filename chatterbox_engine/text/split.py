"""Long text, parted into pieces that T3 speaks well."""

import re
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from chatterbox_engine.text.languages import piece_characters
from chatterbox_engine.text.sentences import sentences

_DIGIT = 5
"""Characters that a digit counts for: "seven hundred and" is said for one."""
SENTENCE_PAUSE_S = 0.2
CLAUSE_PAUSE_S = 0.1


class _Break(Enum):
    """Where a text may be parted: the pause there in seconds, and its cost beside that of a piece left empty (1)."""

    PARAGRAPH = (0.6, -0.9)
    SENTENCE = (SENTENCE_PAUSE_S, 0.0)
    CLAUSE = (CLAUSE_PAUSE_S, 0.25)
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
_ATOM = re.compile(rf"\[\w+ \w+\][.,;:!?]*|[^\s。！？，、；：]*[。！？，、；：]+[{_CLOSING}]*|[^\s。！？，、；：]+")
"""A tag of two words; a word with its punctuation; in a script without spaces, what stands up to a mark."""
_CLAUSE_END = re.compile(rf"[,;:—–，、；：،؛][{_CLOSING}]*$")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def split(text: str, max_characters: int | None = None, language: str = "en") -> list[Piece]:
    """Part a text into pieces of at most `max_characters`; one that fits stays whole, as it is. None: as many as suit
    the language. A digit counts for several characters, since it takes as long to say.

    Very short and very long pieces make T3 hallucinate. So the parting is the one of least raggedness, as paragraphs
    are set in lines (D. Knuth and M. Plass, 1981): each piece costs the cube of the share it lacks to the limit, and
    each break costs what its kind does, sentence ends the least but for paragraphs. Sentences are those of `sentencex`.
    """
    max_characters = max_characters or piece_characters(language)
    digit = min(_DIGIT, max_characters)
    sizes = np.cumsum([0, *(digit if character.isdigit() else 1 for character in text)])  # of the text before each
    if sizes[-1] <= max_characters:
        return [Piece(text, 0.0)]
    starts, ends = _atoms(text, sizes, max_characters)
    breaks = _breaks(text, starts, ends, language)
    costs = np.array([0.0, *(kind.cost for kind in breaks)])  # of the break before an atom
    first, last = sizes[starts], sizes[ends]
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


def _atoms(text: str, sizes: np.ndarray, most: int) -> tuple[list[int], list[int]]:
    """Starts and ends of what is not parted; a word of a larger size is cut into parts as equal as can be."""
    starts: list[int] = []
    ends: list[int] = []
    for match in _ATOM.finditer(text):
        cuts = [*match.span()]
        parts = -(-int(sizes[cuts[1]] - sizes[cuts[0]]) // most)
        while any(sizes[end] - sizes[begin] > most for begin, end in pairwise(cuts)):
            aims = np.linspace(sizes[match.start()], sizes[match.end()], parts + 1)
            cuts = np.unique(np.searchsorted(sizes, aims, side="right") - 1).tolist()
            parts += 1
        starts += cuts[:-1]
        ends += cuts[1:]
    return starts, ends


def _breaks(text: str, starts: list[int], ends: list[int], language: str) -> list[_Break]:
    """The kind of break after each atom but the last."""
    sentence_ends: set[int] = set()
    position = 0
    for sentence in sentences(language, text):
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
