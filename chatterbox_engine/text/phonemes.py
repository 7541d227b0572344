"""English text -> phonemes, by the converter of hibari-tts (Apache-2.0), a port of misaki's."""

import re
import unicodedata

_LONGEST = 30
"""Characters of a word: the converter's time grows with their cube, and one of 300 took it a minute."""
_LONG = re.compile(rf"\S{{{_LONGEST + 1},}}")


class Phonemizer:
    """Reads numbers, times, prices and abbreviations, too. Loads its dictionary when it is made."""

    def __init__(self) -> None:
        from hibari import Hibari  # here, since most models read letters
        from hibari.g2p import G2P, normalize

        self._sentences = Hibari.split_sentences
        self._convert = G2P()
        self._expand = normalize

    def __call__(self, text: str) -> str:
        """The text's sentences in Kokoro's alphabet, a space between them."""
        return self.read(text)[0]

    def read(self, text: str) -> tuple[str, list[tuple[str, int]]]:
        """The phonemes, and the words as they are read ("five dollars" for "$5") with the place of each among them."""
        try:
            return self._read(text)
        except ValueError:  # the converter takes "①" and "⓵" for digits of a number
            plain = "".join(map(_plain, unicodedata.normalize("NFKC", text)))
            return self._read(plain)

    def _read(self, text: str) -> tuple[str, list[tuple[str, int]]]:
        said, words = "", []
        for sentence in self._sentences(_LONG.sub(_parted, text)):
            made, word, begin = "", "", 0
            for token in self._convert.phonemize_tokens(self._convert.tokenize(self._expand(sentence))):
                if not word:
                    begin = len(made)
                made += self._convert.unk if token.phonemes is None else token.phonemes
                word += token.text
                if token.whitespace:
                    words += _placed(word, said, made, begin)
                    word, made = "", made + " "
            words += _placed(word, said, made, begin)
            made = made.rstrip()
            said += made + " " if made else ""
        return said.rstrip(), words


def _plain(character: str) -> str:
    """A digit of a shape of its own as a word of its own."""
    odd = character.isdigit() and not character.isdecimal()
    return f" {unicodedata.digit(character)} " if odd else character


def _parted(match: re.Match[str]) -> str:
    """A long word in shorter ones, behind a mark where there is one."""
    rest, parts = match.group(), []
    while len(rest) > _LONGEST:
        cut = next((end for end in range(_LONGEST, 0, -1) if not rest[end - 1].isalnum()), _LONGEST)
        parts.append(rest[:cut])
        rest = rest[cut:]
    return " ".join((*parts, rest))


def _placed(word: str, said: str, made: str, begin: int) -> list[tuple[str, int]]:
    """The word, unless it is punctuation that is not said."""
    audible = any(character.isalpha() for character in made[begin:])
    return [(word, len(said) + begin)] if audible else []
