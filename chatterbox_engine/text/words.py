"""A text's words, and where among its ids each begins."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from chatterbox_engine.types import Begun

_AHEAD, _BACK = 7, 4
"""Ids by which attention moves from one speech token to the next, at most: chatterbox-tts's alignment analyzer's."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as the model's text has it, and the number of its first id."""

    text: str
    first: int


@dataclass(slots=True)
class Follower:
    """Which words have begun, by where attention stands in the text as each speech token is drawn.

    Attention wanders a little, and jumps away and back: it is followed where it moves by a few ids, or has twice been
    found in one other neighbourhood.
    """

    words: Sequence[Word]
    spoken: int = 0
    """Speech tokens so far."""
    _next: int = 0
    _place: int | None = None
    _elsewhere: int | None = field(default=None)

    def follow(self, places: Sequence[int]) -> tuple[Begun, ...]:
        """The next speech tokens' places -> the words that begin with them."""
        begun = []
        for place in places:
            if self._place is None or _near(self._place, place) or _near(self._elsewhere, place):
                self._place, self._elsewhere = place, None
            else:
                self._elsewhere = place
            while self._next < len(self.words) and self._place >= self.words[self._next].first:
                begun.append(Begun(self.words[self._next].text, self.spoken))
                self._next += 1
            self.spoken += 1
        return tuple(begun)


def _near(place: int | None, found: int) -> bool:
    return place is not None and -_BACK < found - place < _AHEAD


def in_text(said: str, shown: str) -> list[tuple[str, int]]:
    """The words of `shown`, and the place of each in `said`, which has as many, parted by spaces; none of them where it
    has not."""
    words, parts = shown.split(), said.split(" ")
    places, at = [], 0
    for part in parts:
        if part:
            places.append(at)
        at += len(part) + 1
    return list(zip(words, places, strict=True)) if len(words) == len(places) else []
