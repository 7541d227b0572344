"""Tokenizers for dummy weights, where the model's own may not be bundled: the same kind, framing and tags."""

import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from chatterbox_engine.text.gpt2 import byte_level
from chatterbox_engine.text.languages import LANGUAGES

ENGLISH = Path(__file__).parent / "english.json"
"""A letter a token, with the marks of the English model; ids below 704."""
EVENTS = ("[clear throat]", "[sigh]", "[shush]", "[cough]", "[groan]", "[sniff]", "[gasp]", "[chuckle]", "[laugh]")
"""Sounds that turbo and nano make where the text has these tags."""
_MARKS = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 255}
_SCRIPTS = (
    (0x0021, 0x007E),
    (0x00A1, 0x00FF),
    (0x0300, 0x036F),  # combining accents, after NFKD
    (0x0370, 0x045F),  # Greek, Cyrillic
    (0x05B0, 0x05EA),  # Hebrew
    (0x0600, 0x06FF),  # Arabic
    (0x0900, 0x097F),  # Devanagari
    (0x1100, 0x11FF),  # parts of Korean syllables
    (0x3001, 0x30FF),  # Japanese kana
)


def english() -> Tokenizer:
    """ENGLISH."""
    return Tokenizer.from_file(str(ENGLISH))


def multilingual() -> Tokenizer:
    """A letter a token, with the marks and tags of the multilingual model; ids below 2454."""
    tags = [
        "[PAD]",
        *(f"[{code}]" for code in LANGUAGES),
        *(f"[cj_{k}]" for k in f"{string.ascii_lowercase}0123456789."),
    ]
    letters = [chr(code) for first, last in _SCRIPTS for code in range(first, last + 1)]
    free = (number for number in range(2454) if number not in _MARKS.values())
    vocabulary = _MARKS | dict(zip((*tags, *letters), free, strict=False))
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*_MARKS, *tags])
    return tokenizer


def gpt2() -> Tokenizer:
    """A byte a token, with the event tags; ids below 50276."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    return byte_level(
        vocabulary, [], {len(alphabet) + n: AddedToken(tag, normalized=False) for n, tag in enumerate(EVENTS)}
    )
