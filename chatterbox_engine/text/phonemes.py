"""English text -> phonemes, by the converter of hibari-tts (Apache-2.0), a port of misaki's."""


class Phonemizer:
    """Reads numbers, times, prices and abbreviations, too. Loads its dictionary when it is made."""

    def __init__(self) -> None:
        from hibari import Hibari  # here, since most models read letters
        from hibari.g2p import G2P

        self._sentences = Hibari.split_sentences
        self._convert = G2P()

    def __call__(self, text: str) -> str:
        """The text's sentences in Kokoro's alphabet, a space between them."""
        sentences = (self._convert(sentence) for sentence in self._sentences(text))
        return " ".join(sentence for sentence in sentences if sentence)
