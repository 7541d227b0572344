"""The phonemes as text tokens: hibari's symbols (Kokoro's alphabet) beside the real model's special tokens."""

import json
from functools import cache
from importlib.resources import files

FIRST = 7
"""Id of the first symbol; below it are the real vocabulary's special tokens."""
SPACE, STOP, START = 2, 0, 255
_SPECIAL = {"[STOP]": STOP, "[UNK]": 1, "[SPACE]": SPACE, "[PAD]": 3, "[SEP]": 4, "[CLS]": 5, "[MASK]": 6}


@cache
def ids() -> dict[str, int]:
    """Id of each symbol."""
    symbols = json.loads((files("hibari") / "assets" / "vocab.json").read_text())
    return {" ": SPACE, **{symbol: FIRST + place for place, symbol in enumerate(sorted(set(symbols) - {" "}))}}


def encode(phonemes: str) -> list[int]:
    """Ids of a phoneme string, without marks around it."""
    known = ids()
    return [known[symbol] for symbol in phonemes]


def vocabulary() -> dict[str, int]:
    """All tokens of the checkpoint's tokenizer.json."""
    return {**_SPECIAL, **{symbol: id_ for symbol, id_ in ids().items() if symbol != " "}, "[START]": START}
