"""A text's punctuation as a family's models were trained to read it."""

from dataclasses import dataclass

from chatterbox_engine.errors import InvalidRequest

_SILENT_TEXT = "You need to add some text for me to talk."


@dataclass(frozen=True)
class _Rules:
    """How a family's text is normalised."""

    replacements: tuple[tuple[str, str], ...]
    """Applied one after the other."""
    endings: tuple[str, ...]
    """A text that ends in none of these gets a full stop."""


_MARKS = (("—", "-"), ("–", "-"), (" ,", ","), ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"))
_FULL = (("...", ", "), ("…", ", "), (":", ","), (" - ", ", "), (";", ", "), *_MARKS)
_LIGHT = (("…", ", "), (":", ","), *_MARKS)
_ENDINGS = (".", "!", "?", "-", ",")
_RULES = {
    "chatterbox": _Rules(_FULL, _ENDINGS),
    "chatterbox-multilingual": _Rules(_FULL, (*_ENDINGS, "、", "，", "。", "？", "！")),
    "chatterbox-turbo": _Rules(_LIGHT, _ENDINGS),
    "chatterbox-nano": _Rules(_LIGHT, _ENDINGS),
    "demo": _Rules((), _ENDINGS),  # its phonemizer reads punctuation, and times of day, as they are
}


def normalise(text: str, family: str = "chatterbox") -> str:
    """The text as the family's model was trained to read it: what chatterbox-tts's `punc_norm` makes of it.

    Raises InvalidRequest for an unknown family.
    """
    if family not in _RULES:
        raise InvalidRequest(f"There is no family {family!r}. Families: {', '.join(_RULES)}.", "family")
    rules = _RULES[family]
    if not text:
        return _SILENT_TEXT
    if text[0].islower():
        text = text[0].upper() + text[1:]
    text = " ".join(text.split())
    for old, new in rules.replacements:
        text = text.replace(old, new)
    text = text.rstrip(" ")
    return text if text.endswith(rules.endings) else text + "."
