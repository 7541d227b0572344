"""The dummies' tokenizers: ids that fit the model, marks and tags in their places, a token a letter."""

import pytest

from chatterbox_engine.checkpoint import FAMILY, find
from chatterbox_engine.text import normalise
from chatterbox_engine.text.languages import LANGUAGES
from chatterbox_engine.text.stand_in import EVENTS
from tests.text.test_tokenizer import SAMPLES, TEXT


@pytest.mark.parametrize("name", FAMILY)
def test_every_text_in_every_language_gives_ids_of_the_model(name: str) -> None:
    dummy = find(f"dummy:{name}", "cpu")
    tokenizer, spec = dummy.tokenizer(), dummy.spec
    for language in spec.languages:
        text = normalise(SAMPLES.get(language, TEXT), spec.family)
        ids = tokenizer.encode(text, language)
        assert 5 < len(ids) < 4 * len(text)
        assert 0 <= min(ids) <= max(ids) < spec.t3.text_vocab
        if spec.t3.start_text is not None:
            assert (ids[0], ids[-1]) == (255, 0)
    assert tokenizer.encode("Hello.") != tokenizer.encode("Hallo.")


def test_languages_and_events_are_tokens_of_their_own() -> None:
    multilingual = find("dummy:chatterbox-multilingual", "cpu").tokenizer()
    assert len({tuple(multilingual.encode("hello", language)) for language in LANGUAGES}) == len(LANGUAGES)
    assert {len(multilingual.encode("hello", language)) for language in LANGUAGES} == {3 + len("hello")}
    for name in ("turbo", "nano"):
        gpt2 = find(f"dummy:chatterbox-{name}", "cpu").tokenizer()
        assert all(len(gpt2.encode(event)) == 1 for event in EVENTS)
