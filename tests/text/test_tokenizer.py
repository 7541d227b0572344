"""Tokens equal chatterbox-tts's for every family; a tokenizer of another model is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.text import TextTokenizer, normalise
from chatterbox_engine.text.gpt2 import ADDED_FILE, CONFIG_FILE, MERGES_FILE, VOCABULARY_FILE
from chatterbox_engine.text.languages import LANGUAGES
from chatterbox_engine.text.stand_in import EVENTS

ENGLISH, MULTILINGUAL, TURBO = (
    ModelSpec.load(SPECS / f"chatterbox{family}.json") for family in ("", "-multilingual", "-turbo")
)
SAMPLES = {
    "ar": "مرحبا، كيف حالك؟ ٣ كُتُب",
    "el": "Καλημέρα! Τι κάνεις;",
    "he": "שלום, מה שלומך?",
    "hi": "नमस्ते, आप कैसे हैं?",
    "ja": "今日は東京へ行きます。ハローとカタカナ、はい！",
    "ko": "안녕하세요, 반갑습니다. 값 ",
    "ru": "Привет! Как дела? Ёлка й",
    "tr": "İyi günler, nasılsınız?",
    "zh": "你好，今天天氣很好。ABC 三隻貓",
}
TEXT = "Hello there, Größe naïve — [laugh] 3.14!"
CANGJIE = [
    "你\tONF",
    "好\tVND",
    "今\tOIN",
    "天\tMK",
    "氣\tONFD",
    "夫\tMK",
    "貓\tBHTW",
    "很\tHOAV",
    "好\tVNDX",
    "三\tMMM\t9",
]


@settings(max_examples=100)
@given(text=st.one_of(st.text(max_size=80), st.just(TEXT)))
def test_english_equals_the_reference(shared_data: Path, text: str) -> None:
    from chatterbox.models.tokenizers import EnTokenizer

    reference = EnTokenizer(str(shared_data / "tokenizer.json"))
    assert TextTokenizer.from_folder(shared_data, ENGLISH).encode(text) == [255, *reference.encode(text), 0]


@pytest.fixture(scope="module")
def multilingual(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextTokenizer, Callable[[str, str], list[int]]]:
    """Ours and the reference's, with a made-up table of Cangjie keys and, since the segmenter's model must be
    downloaded, one that parts every two characters."""
    import spacy_pkuseg
    from chatterbox.models.tokenizers import MTLTokenizer, tokenizer

    class Pairs:
        def cut(self, text: str) -> list[str]:
            return [text[place : place + 2] for place in range(0, len(text), 2)]

    folder = tmp_path_factory.mktemp("multilingual")
    vocabulary = folder / MULTILINGUAL.files.tokenizer
    vocabulary.symlink_to(shared_data / MULTILINGUAL.files.tokenizer)
    table = folder / "Cangjie5_TC.json"
    table.write_text(json.dumps(CANGJIE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "hf_hub_download", lambda **_: str(table))
        patch.setattr(spacy_pkuseg, "pkuseg", Pairs)
        reference = MTLTokenizer(str(vocabulary))
        own = TextTokenizer.from_folder(folder, MULTILINGUAL)
    return own, lambda text, language: reference.encode(text, language_id=language)


@settings(max_examples=150)
@given(
    text=st.one_of(
        st.sampled_from([*SAMPLES.values(), TEXT]),
        st.text(st.sampled_from("".join(SAMPLES.values()) + "は へ[]\n"), max_size=40),
    ),
    language=st.sampled_from(sorted(LANGUAGES)),
)
def test_multilingual_equals_the_reference(multilingual: Any, text: str, language: str) -> None:
    own, reference = multilingual
    assert own.encode(text, language) == [255, *reference(text, language), 0]


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_each_language_reads_normalised_text_as_the_reference_does(multilingual: Any, language: str) -> None:
    own, reference = multilingual
    text = normalise(SAMPLES.get(language, TEXT), MULTILINGUAL.family)
    ids = own.encode(text, language)
    assert ids == [255, *reference(text, language), 0]
    assert len(ids) > 8
    assert ids != own.encode(text, "en") or language == "en"


def save_gpt2(folder: Path, form: str) -> None:
    """A small trained byte-level vocabulary with GPT-2's end of text and the event tags, as a hub checkpoint has it."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT, "the quick brown fox jumps over the lazy dog"] * 50, vocab_size=320)
    trained.save_model(str(folder))
    size = trained.get_vocab_size()
    end = "<|endoftext|>"
    vocabulary = json.loads((folder / VOCABULARY_FILE).read_text()) | {end: size}
    (folder / VOCABULARY_FILE).write_text(json.dumps(vocabulary))
    added = {tag: size + 1 + number for number, tag in enumerate(EVENTS)}
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "eos_token": end, "bos_token": end, "unk_token": end}
    (folder / ADDED_FILE).write_text(json.dumps(added))
    if form != "plain":
        plain = {"lstrip": False, "rstrip": False, "single_word": False}
        config["added_tokens_decoder"] = {
            str(size): {"content": end, "normalized": True, "special": True, **plain},
            **{str(n): {"content": t, "normalized": False, "special": False, **plain} for t, n in added.items()},
        }
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    if form == "fast":
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / VOCABULARY_FILE).unlink()
        (folder / MERGES_FILE).unlink()


@pytest.fixture(scope="module", params=["plain", "described", "fast"])
def gpt2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, Any]:
    """Ours and transformers', from each form in which a checkpoint may keep it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, request.param)
    reference = AutoTokenizer.from_pretrained(folder)
    reference.pad_token = reference.eos_token  # as ChatterboxTurboTTS.from_local does
    return TextTokenizer.from_folder(folder, TURBO), reference


@settings(max_examples=100)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*EVENTS, "fox", " ", "[", "laugh]", "\n", "é", "<|endoftext|>"])).map("".join),
    )
)
def test_turbo_equals_the_reference(gpt2: tuple[TextTokenizer, Any], text: str) -> None:
    own, reference = gpt2
    assert own.encode(text) == reference(text, padding=True, truncation=True).input_ids


def test_a_tag_is_one_token(gpt2: tuple[TextTokenizer, Any]) -> None:
    own, _ = gpt2
    assert len({tuple(own.encode(tag)) for tag in EVENTS}) == len(EVENTS)
    assert all(len(own.encode(tag)) == 1 for tag in EVENTS)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json is missing.*demo"):
        TextTokenizer.from_folder(tmp_path, ENGLISH)
    path.write_text("{}")
    with pytest.raises(ModelUnavailable, match="is not a tokenizer"):
        TextTokenizer.from_folder(tmp_path, ENGLISH)

    def sized(**change: int) -> ModelSpec:
        return ENGLISH.model_copy(update={"t3": ENGLISH.t3.model_copy(update=change)})

    with pytest.raises(ModelUnavailable, match=r"ids up to 703.*600 text tokens"):
        TextTokenizer.from_folder(shared_data, sized(text_vocab=600))
    with pytest.raises(ModelUnavailable, match=r"\[START\] as id 7"):
        TextTokenizer.from_folder(shared_data, sized(start_text=7))
    with pytest.raises(ModelUnavailable, match=r"does not have Ġ"):
        TextTokenizer.from_folder(shared_data, TURBO)
    english = MULTILINGUAL.model_copy(update={"files": ENGLISH.files})
    with pytest.raises(ModelUnavailable, match=r"does not have \[ar\]"):
        TextTokenizer.from_folder(shared_data, english)
    content = json.loads((shared_data / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[SPACE]"]
    content["model"]["vocab"].pop("[SPACE]")
    path.write_text(json.dumps(content))
    with pytest.raises(ModelUnavailable, match=r"does not have \[SPACE\]"):
        TextTokenizer.from_folder(tmp_path, ENGLISH)


@pytest.mark.parametrize("file", [VOCABULARY_FILE, MERGES_FILE, ADDED_FILE, CONFIG_FILE])
def test_a_damaged_gpt2_file_is_refused(tmp_path: Path, file: str) -> None:
    save_gpt2(tmp_path, "plain")
    (tmp_path / file).write_bytes(b"\xff{garbage")
    with pytest.raises(ModelUnavailable, match="is not a tokenizer"):
        TextTokenizer.from_folder(tmp_path, TURBO)
    save_gpt2(tmp_path, "plain")
    added = json.loads((tmp_path / ADDED_FILE).read_text())
    (tmp_path / ADDED_FILE).write_text(json.dumps({tag: number + 5 for tag, number in added.items()}))
    with pytest.raises(ModelUnavailable, match=r"clear throat.* should be"):
        TextTokenizer.from_folder(tmp_path, TURBO)
