"""English text -> phonemes, by the converter of hibari-tts (Apache-2.0), a port of misaki's."""

from hibari import Hibari
from hibari.g2p import G2P


class Phonemizer:
    """Reads numbers, times, prices and abbreviations, too. Loads its dictionary when it is made."""

    def __init__(self) -> None:
        self._convert = G2P()

    def __call__(self, text: str) -> str:
        """The text's sentences in Kokoro's alphabet, a space between them."""
        sentences = (self._convert(sentence) for sentence in Hibari.split_sentences(text))
        return " ".join(sentence for sentence in sentences if sentence)
