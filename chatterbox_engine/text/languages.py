"""The languages of the multilingual model, and how each is written for it: what chatterbox-tts's MTLTokenizer does."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any
from unicodedata import normalize

from chatterbox_engine.text.cangjie import Cangjie

logger = logging.getLogger(__name__)

LANGUAGES = {
    "ar": "Arabic",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "ms": "Malay",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "sw": "Swahili",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""Codes of ISO 639-1, and their English names."""

_PIECE_CHARACTERS = {"zh": 60, "ja": 100, "ko": 120}


def piece_characters(language: str) -> int:
    """The most characters that T3 speaks well in one go: fewer where a character is a syllable or several tokens."""
    return _PIECE_CHARACTERS.get(language, 300)


def written(text: str, language: str, cangjie: Cangjie | None) -> str:
    """A normalised text in the letters that the multilingual vocabulary knows.

    All of it in lower case and decomposed (NFKD, which also parts Korean syllables). Japanese in kana, Chinese as
    Cangjie keys (`cangjie` None: as it is), Hebrew with vowel marks and Russian with stress marks where the packages
    for that are installed.
    """
    text = normalize("NFKD", text.lower())
    if language == "zh":
        return text if cangjie is None else cangjie.spell(text)
    if language == "ja":
        return _in_kana(text)
    if language == "ko":
        return text.strip()
    if language in _MARKED:
        return _MARKED[language](text)
    return text


def _in_kana(text: str) -> str:
    """Words with kanji in hiragana; the particles は and へ, which are spoken unlike they are written, stand apart."""
    words = []
    for word in _kakasi().convert(text):
        if any("\u4e00" <= character <= "\u9fff" for character in word["orig"]):
            words.append(f" {word['hira']}" if word["hira"][:1] in ("は", "へ") else word["hira"])
        else:
            words.append(word["orig"])
    return normalize("NFKD", "".join(words))


@cache
def _kakasi() -> Any:
    import pykakasi  # takes half a second

    return pykakasi.kakasi()


class _Marker:
    """Adds a language's marks by an optional package; without it, or where it fails, the text stays as it is."""

    def __init__(self, package: str, what: str, load: Callable[[], Callable[[str], str]]) -> None:
        self._package = package
        self._what = what
        self._load = load
        self._add: Callable[[str], str] | None = None
        self._told = False

    def __call__(self, text: str) -> str:
        if self._add is None:
            try:
                self._add = self._load()
            except Exception as error:  # whatever the package raises: the text can be read without marks
                self._tell(error)
                self._add = str
        try:
            return self._add(text)
        except Exception as error:
            self._tell(error)
            return text

    def _tell(self, error: Exception) -> None:
        if not self._told:
            logger.warning("%s is spoken without marks of its own: %s (%s).", self._what, self._package, error)
        self._told = True


def _dicta() -> Callable[[str], str]:
    from dicta_onnx import Dicta

    return Dicta().add_diacritics


def _stresser() -> Callable[[str], str]:
    from russian_text_stresser.text_stresser import RussianTextStresser

    return RussianTextStresser().stress_text


_MARKED = {
    "he": _Marker("dicta_onnx", "Hebrew", _dicta),
    "ru": _Marker("russian_text_stresser", "Russian", _stresser),
}
