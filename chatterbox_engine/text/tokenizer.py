"""Normalised text -> the ids that T3 reads."""

from bisect import bisect_left
from pathlib import Path

from tokenizers import Tokenizer

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.spec import ModelSpec
from chatterbox_engine.text.cangjie import Cangjie
from chatterbox_engine.text.gpt2 import read_gpt2
from chatterbox_engine.text.languages import written
from chatterbox_engine.text.phonemes import Phonemizer
from chatterbox_engine.text.words import Word, in_text

_SPACE = "[SPACE]"
_BYTE_SPACE = "Ġ"
"""How byte-level vocabularies write a space."""
_WITHOUT_SPACES = ("ja", "zh")
"""Languages that do not part words by spaces."""
_WAY_OUT = "Download the checkpoint again, or use model `demo`, which needs no files."


class TextTokenizer:
    """The model's own byte-pair vocabulary; `where` names its source in errors.

    Raises ModelUnavailable where it is another model's.
    """

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec, where: str, cangjie: Cangjie | None = None) -> None:
        vocabulary = tokenizer.get_vocab()
        self._tagged = len(spec.languages) > 1
        self._marked = spec.tokenizer != "gpt2"
        self._phonemizer = Phonemizer() if spec.tokenizer == "phonemes" else None
        needed: dict[str, int | None] = {_BYTE_SPACE: None}
        if self._marked:
            needed = {"[START]": spec.t3.start_text, "[STOP]": spec.t3.stop_text, _SPACE: None}
        if self._tagged:
            needed |= {f"[{language}]": None for language in spec.languages}
        for token, wanted in needed.items():
            found = vocabulary.get(token)
            if found is None or wanted not in (None, found):
                place = "" if wanted is None else f" as id {wanted}"
                raise ModelUnavailable(f"{where} does not have {token}{place}: it is another model's. {_WAY_OUT}")
        if max(vocabulary.values()) >= spec.t3.text_vocab:
            raise ModelUnavailable(
                f"{where} has ids up to {max(vocabulary.values())}, but the model has {spec.t3.text_vocab} text "
                f"tokens: it is another model's. {_WAY_OUT}"
            )
        self._tokenizer = tokenizer
        self._cangjie = cangjie
        self._before = [] if spec.t3.start_text is None else [spec.t3.start_text]
        self._after = [] if spec.t3.stop_text is None else [spec.t3.stop_text]

    @classmethod
    def from_folder(cls, folder: Path, spec: ModelSpec) -> "TextTokenizer":
        """Read a checkpoint's. Raises ModelUnavailable where it is absent, no tokenizer, or another model's."""
        path = folder / spec.files.tokenizer
        try:
            tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None
            if tokenizer is None and spec.tokenizer == "gpt2":
                tokenizer = read_gpt2(folder)
        except Exception as error:  # the library raises Exception itself
            raise ModelUnavailable(f"{path} is not a tokenizer ({error}). {_WAY_OUT}") from error
        if tokenizer is None:
            raise ModelUnavailable(f"{path} is missing. {_WAY_OUT}")
        cangjie = None if spec.files.cangjie is None else Cangjie.from_file(folder / spec.files.cangjie)
        return cls(tokenizer, spec, str(path), cangjie)

    def encode(self, text: str, language: str = "en") -> list[int]:
        """Ids of a normalised text in one of the model's languages, between the start and the stop token if it has
        them."""
        return self.read(text, language)[0]

    def read(self, text: str, language: str = "en") -> tuple[list[int], list[Word]]:
        """The ids, and the words with the number of each one's first id. No words where it is not known which ids are
        whose."""
        shown, tag = text, f"[{language}]" if self._tagged else ""
        if self._tagged:
            text = written(text, language, self._cangjie)
        if self._phonemizer is not None:
            text, words = self._phonemizer.read(text)
        else:
            words = [] if language in _WITHOUT_SPACES else in_text(text, shown)
        text = tag + text
        if self._marked:
            words = [(word, place + (len(_SPACE) - 1) * text.count(" ", 0, len(tag) + place)) for word, place in words]
            text = text.replace(" ", _SPACE)
        encoded = self._tokenizer.encode(text)
        starts = [begin for begin, _ in encoded.offsets]
        found = [Word(word, len(self._before) + bisect_left(starts, len(tag) + place)) for word, place in words]
        return [*self._before, *encoded.ids, *self._after], found
