"""The voice store: names are unique, no path is made of one, and foreign files do no harm."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.voice import Voice
from chatterbox_engine.voice_store import VoiceStore


def voice(number: int, name: str) -> Voice:
    return Voice(
        f"voice_{number:016x}", name, number, "demo",
        torch.zeros(1, 256), torch.zeros(1, 15, dtype=torch.int64), torch.zeros(1, 10, dtype=torch.int64),
        torch.zeros(1, 20, 80), torch.zeros(1, 192),
    )  # fmt: skip


def test_voices_are_kept_and_found_by_id_and_name(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "deep" / "voices")
    anna, bert = voice(1, "Anna"), voice(2, "../../etc/passwd")
    store.add(bert)
    store.add(anna)
    assert store.list() == [anna.info, bert.info]
    assert VoiceStore(tmp_path / "deep" / "voices").get("Anna").info == anna.info
    assert store.get(bert.id).info == store.get(bert.name).info == bert.info
    assert {path.name for path in tmp_path.rglob("*.*")} == {f"{v.id}.safetensors" for v in (anna, bert)}
    store.delete(anna.id)
    store.delete(bert.name)
    assert store.list() == []
    for missing in (anna.id, "Anna", "", "../x", "voice_zz"):
        with pytest.raises(UnknownVoice):
            store.get(missing)
        with pytest.raises(UnknownVoice):
            store.delete(missing)


def test_a_name_is_unique_and_a_clip_is_renamed(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    store.add(voice(1, "Anna"))
    store.add(voice(1, "Anna"))
    with pytest.raises(InvalidRequest, match="another voice named 'Anna'") as caught:
        store.add(voice(2, "Anna"))
    assert caught.value.param == "name"
    store.add(voice(1, "Berta"))
    store.add(voice(2, "Anna"))
    assert [info.name for info in store.list()] == ["Berta", "Anna"]


def test_a_voice_is_renamed_and_described(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    store.add(replace(voice(1, "Anna"), description="Warm, slow.", consent=True))
    store.add(voice(2, "Bert"))
    changed = store.change("Anna", name="Clara")
    assert (changed.id, changed.name, changed.description, changed.consent) == (
        voice(1, "").id, "Clara", "Warm, slow.", True
    )  # fmt: skip
    assert store.change("Clara", description="").description == ""
    assert store.info("Clara") == VoiceStore(tmp_path).info("Clara")
    for name in ("Bert", "default", ""):
        with pytest.raises(InvalidRequest):
            store.change("Clara", name=name)
    with pytest.raises(InvalidRequest, match="one line"):
        store.change("Clara", description="a\nb")
    with pytest.raises(UnknownVoice):
        store.change("Anna", name="Dora")


def test_streams_keep_a_voice_that_is_deleted_under_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VoiceStore(tmp_path)
    anna, bert = store.add(voice(1, "Anna")), store.add(voice(2, "Bert"))
    store.delete("Anna")
    assert store.deleted(anna.id).id == anna.id
    assert store.list() == [bert]
    for other in (bert.id, "Anna", "../x"):
        with pytest.raises(UnknownVoice):
            store.deleted(other)
    store.add(voice(1, "Anna"))  # the same clip again
    assert store.info("Anna").id == anna.id
    store.delete("Anna")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400)
    store.delete("Bert")
    with pytest.raises(UnknownVoice):
        store.deleted(anna.id)


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", "\x00", "\ud800", "default", "voice_0123456789abcdef"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    store = VoiceStore(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        store.add(voice(1, name))
    assert caught.value.param == "name"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("identity", ["default", "voice_0", "../voice_0123456789abcdef", "voice_0123456789ABCDEF"])
def test_bad_ids_are_refused(tmp_path: Path, identity: str) -> None:
    bad = voice(1, "Anna")
    object.__setattr__(bad, "id", identity)
    with pytest.raises(InvalidRequest):
        VoiceStore(tmp_path).add(bad)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64).filter(str.strip))
def test_any_other_name_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = VoiceStore(tmp_path_factory.mktemp("voices"))
    store.add(voice(1, name))
    assert store.get(name).name == name


def test_foreign_files_are_passed_over_with_one_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = VoiceStore(tmp_path)
    good = voice(1, "Anna")
    store.add(good)
    content = good.to_bytes()
    (tmp_path / "voice_00000000000000aa.safetensors").write_bytes(content[:500])
    (tmp_path / "voice_00000000000000bb.safetensors").write_bytes(b"")
    (tmp_path / "voice_00000000000000cc.safetensors").write_bytes(content)
    (tmp_path / "voice_00000000000000dd.safetensors").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert store.list() == [good.info]
    assert len(caplog.records) == 4
    for number in ("aa", "bb", "cc", "dd"):
        with pytest.raises(UnknownVoice):
            store.get(f"voice_00000000000000{number}")
