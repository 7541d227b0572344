"""What may be spoken at all."""

import unicodedata

from chatterbox_engine.errors import InvalidRequest


def validate(text: str, max_characters: int) -> str:
    """The text as it is, if it can be spoken. Raises InvalidRequest (param "input") saying why not."""
    if not isinstance(text, str):
        raise InvalidRequest(f"The input must be a string, not {type(text).__name__}.", "input")
    if not text.strip():
        raise InvalidRequest("The input is empty. Give it some text to speak.", "input")
    if len(text) > max_characters:
        raise InvalidRequest(
            f"The input has {len(text)} characters; at most {max_characters} are allowed. Send it in parts.", "input"
        )
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidRequest(
                f"The input is not valid Unicode: half a surrogate pair, U+{ord(character):04X}, at character {place}. "
                "Encode it as UTF-8.",
                "input",
            )
        if category == "Cc" and character not in "\n\r\t":
            raise InvalidRequest(
                f"The input has a control character, U+{ord(character):04X}, at character {place}. Remove it.", "input"
            )
    if not any(character.isalnum() for character in text):
        raise InvalidRequest("The input has no letter or digit, so there is nothing to speak.", "input")
    return text
