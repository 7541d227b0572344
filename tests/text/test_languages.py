"""The languages are the reference's; what a language lacks is said once, and the text is spoken without it."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.text.cangjie import Cangjie
from chatterbox_engine.text.languages import LANGUAGES, _dicta, _Marker, written


@pytest.mark.parametrize("name", ["chatterbox-multilingual", "chatterbox-multilingual-v3"])
def test_the_languages_are_the_reference_s(name: str) -> None:
    from chatterbox.mtl_tts import SUPPORTED_LANGUAGES

    assert LANGUAGES == SUPPORTED_LANGUAGES
    assert ModelSpec.load(SPECS / f"{name}.json").languages == tuple(LANGUAGES)


def test_a_missing_package_is_told_once_and_a_present_one_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dicta_onnx", None)
    marker = _Marker("dicta_onnx", "Hebrew", _dicta)
    assert [marker("שלום"), marker("שלום")] == ["שלום", "שלום"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "dicta_onnx" in caplog.text

    class Dicta:
        def add_diacritics(self, text: str) -> str:
            if text == "bad":
                raise RuntimeError("odd")
            return text + "!"

    package = ModuleType("dicta_onnx")
    package.Dicta = Dicta  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dicta_onnx", package)
    caplog.clear()
    marker = _Marker("dicta_onnx", "Hebrew", _dicta)
    assert [marker("one"), marker("bad"), marker("bad")] == ["one!", "bad", "bad"]
    assert len(caplog.records) == 1


def test_chinese_without_its_table_stays_as_it_is_and_a_damaged_table_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "Cangjie5_TC.json"
    assert Cangjie.from_file(path) is None
    assert "Chinese cannot be spoken" in caplog.text
    assert written("你好", "zh", None) == "你好"
    for content in (b"\xff\xfe", b"{", b"[3]", json.dumps(["你"]).encode()):
        path.write_bytes(content)
        with pytest.raises(ModelUnavailable, match="not a table of Cangjie keys"):
            Cangjie.from_file(path)


def test_characters_with_the_same_keys_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    table = Cangjie([("天", "mk"), ("夫", "mk"), ("好", "vnd")], None)
    assert table.spell("天夫, a好?") == "[cj_m][cj_k][cj_.][cj_m][cj_k][cj_1][cj_.], a[cj_v][cj_n][cj_d][cj_.]?"


def test_a_segmenter_without_its_model_is_told_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import spacy_pkuseg

    monkeypatch.setattr(spacy_pkuseg.config, "pkuseg_home", str(tmp_path / "none"))
    monkeypatch.setitem(spacy_pkuseg.config.model_urls, "spacy_ontonotes", "http://127.0.0.1:9/model.zip")
    path = tmp_path / "Cangjie5_TC.json"
    path.write_text(json.dumps(["天\tmk"]))
    table = Cangjie.from_file(path)
    assert table is not None
    assert "without being parted into words" in caplog.text
    assert table.spell("天天") == "[cj_m][cj_k][cj_.]" * 2
    assert logging.getLevelName(caplog.records[-1].levelno) == "WARNING"
