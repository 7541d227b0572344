"""Text is normalised as chatterbox-tts does it, for each family."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.text import normalise


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    from chatterbox import mtl_tts, tts, tts_turbo

    return {
        "chatterbox": tts.punc_norm,
        "chatterbox-multilingual": mtl_tts.punc_norm,
        "chatterbox-turbo": tts_turbo.punc_norm,
        "chatterbox-nano": tts_turbo.punc_norm,
    }


marked = st.text(st.one_of(st.sampled_from(" .,:;-—–…“”‘’\"'!?、，。？！\n\taß"), st.characters()), max_size=40)


@settings(max_examples=300)
@given(text=marked)
def test_normalise_equals_the_reference(references: dict[str, Any], text: str) -> None:
    for family, reference in references.items():
        assert normalise(text, family) == reference(text)


def test_normalise_refuses_an_unknown_family() -> None:
    with pytest.raises(InvalidRequest, match="chatterbox-turbo"):
        normalise("Hello.", "parrot")
