"""Chinese characters as the keys of the Cangjie input method, which the multilingual vocabulary has as tokens."""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from chatterbox_engine.errors import ModelUnavailable

if TYPE_CHECKING:
    from chatterbox.models.tokenizers.tokenizer import ChineseCangjieConverter

logger = logging.getLogger(__name__)

Segment = Callable[[str], Iterable[str]]
"""A text -> its words."""


class Cangjie:
    """The keys of each character.

    Args:
        entries: (character, keys) pairs. Characters with the same keys are told apart by their place among them, as a
            number after the keys; the first has none. Of a character's several entries the last counts.
        segment: parts a text into words, which are then written with spaces between. None: it stays as it is.
    """

    def __init__(self, entries: Iterable[tuple[str, str]], segment: Segment | None) -> None:
        keys_of: dict[str, str] = {}
        alike: dict[str, list[str]] = {}
        for character, keys in entries:
            keys_of[character] = keys
            alike.setdefault(keys, []).append(character)
        self._spelled = {
            character: "".join(f"[cj_{key}]" for key in f"{keys}{alike[keys].index(character) or ''}.")
            for character, keys in keys_of.items()
        }
        self._segment = segment

    @classmethod
    def from_file(cls, path: Path) -> "Cangjie | None":
        """Read the checkpoint's table; None, and a line in the log, where it is absent.

        Raises ModelUnavailable where it is damaged.
        """
        if not path.is_file():
            logger.warning("%s is missing: Chinese cannot be spoken. Download the checkpoint again.", path)
            return None
        try:
            lines = [entry.split("\t")[:2] for entry in json.loads(path.read_text(encoding="utf-8"))]
            entries = [(character, keys) for character, keys in lines]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelUnavailable(f"{path} is not a table of Cangjie keys ({error}). Download it again.") from error
        return cls(entries, _segmenter())

    @classmethod
    def from_converter(cls, converter: "ChineseCangjieConverter") -> "Cangjie":
        """The table and the segmenter of chatterbox-tts's own object."""
        entries = [(character, keys) for keys, alike in converter.cj2word.items() for character in alike]
        segmenter = converter.segmenter
        return cls([*entries, *converter.word2cj.items()], None if segmenter is None else segmenter.cut)

    def spell(self, text: str) -> str:
        """The text with its Chinese characters as tokens of keys; what has no keys stays."""
        words = text if self._segment is None else " ".join(self._segment(text))
        return "".join(self._spelled.get(c, c) if category(c) == "Lo" else c for c in words)


def _segmenter() -> Segment | None:
    """spacy_pkuseg with its model, which it downloads once; None, and a line in the log, where that fails."""
    from spacy_pkuseg import pkuseg

    try:
        return pkuseg().cut
    except Exception as error:  # whatever the download raises
        logger.warning("Chinese is spoken without being parted into words: spacy_pkuseg has no model (%s).", error)
        return None
