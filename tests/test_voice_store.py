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
from chatterbox_engine.folder import Folder
from chatterbox_engine.voice import Voice
from chatterbox_engine.voice_store import VoiceStore


@pytest.fixture(params=["path", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """On the disk, and what fsspec has in place of a bucket."""
    return Folder(tmp_path) if request.param == "path" else Folder(f"memory://{tmp_path}")


def voice(number: int, name: str) -> Voice:
    return Voice(
        f"voice_{number:016x}", name, number, "demo",
        torch.zeros(1, 256), torch.zeros(1, 15, dtype=torch.int64), torch.zeros(1, 10, dtype=torch.int64),
        torch.zeros(1, 20, 80), torch.zeros(1, 192),
    )  # fmt: skip


def test_voices_are_kept_and_found_by_id_and_name(folder: Folder) -> None:
    store = VoiceStore(folder.under("deep").under("voices"))
    anna, bert = voice(1, "Anna"), voice(2, "../../etc/passwd")
    store.add(bert)
    store.add(anna)
    assert store.list() == [anna.info, bert.info]
    assert VoiceStore(folder.under("deep").under("voices")).get("Anna").info == anna.info
    assert store.get(bert.id).info == store.get(bert.name).info == bert.info
    assert set(folder.under("deep").under("voices").files()) == {f"{v.id}.safetensors" for v in (anna, bert)}
    assert folder.files() == {}
    store.delete(anna.id)
    store.delete(bert.name)
    assert store.list() == []
    for missing in (anna.id, "Anna", "", "../x", "voice_zz"):
        with pytest.raises(UnknownVoice):
            store.get(missing)
        with pytest.raises(UnknownVoice):
            store.delete(missing)


def test_a_name_is_unique_and_a_clip_is_renamed(folder: Folder) -> None:
    store = VoiceStore(folder)
    store.add(voice(1, "Anna"))
    store.add(voice(1, "Anna"))
    with pytest.raises(InvalidRequest, match="another voice named 'Anna'") as caught:
        store.add(voice(2, "Anna"))
    assert caught.value.param == "name"
    store.add(voice(1, "Berta"))
    store.add(voice(2, "Anna"))
    assert [info.name for info in store.list()] == ["Berta", "Anna"]


def test_a_voice_is_renamed_and_described(folder: Folder) -> None:
    store = VoiceStore(folder)
    store.add(replace(voice(1, "Anna"), description="Warm, slow.", consent=True))
    store.add(voice(2, "Bert"))
    changed = store.change("Anna", name="Clara")
    assert (changed.id, changed.name, changed.description, changed.consent) == (
        voice(1, "").id, "Clara", "Warm, slow.", True
    )  # fmt: skip
    assert store.change("Clara", description="").description == ""
    assert store.info("Clara") == VoiceStore(folder).info("Clara")
    for name in ("Bert", "default", ""):
        with pytest.raises(InvalidRequest):
            store.change("Clara", name=name)
    with pytest.raises(InvalidRequest, match="one line"):
        store.change("Clara", description="a\nb")
    with pytest.raises(UnknownVoice):
        store.change("Anna", name="Dora")


def test_streams_keep_a_voice_that_is_deleted_under_them(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VoiceStore(folder)
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
def test_bad_names_are_refused(folder: Folder, name: str) -> None:
    store = VoiceStore(folder)
    with pytest.raises(InvalidRequest) as caught:
        store.add(voice(1, name))
    assert caught.value.param == "name"
    assert folder.files() == {}


@pytest.mark.parametrize("identity", ["default", "voice_0", "../voice_0123456789abcdef", "voice_0123456789ABCDEF"])
def test_bad_ids_are_refused(folder: Folder, identity: str) -> None:
    bad = voice(1, "Anna")
    object.__setattr__(bad, "id", identity)
    with pytest.raises(InvalidRequest):
        VoiceStore(folder).add(bad)
    assert folder.files() == {}


@settings(max_examples=50)
@given(name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64).filter(str.strip))
def test_any_other_name_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = VoiceStore(Folder(tmp_path_factory.mktemp("voices")))
    store.add(voice(1, name))
    assert store.get(name).name == name


def test_foreign_files_are_passed_over_with_one_warning_each(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    store = VoiceStore(folder)
    good = voice(1, "Anna")
    store.add(good)
    content = good.to_bytes()
    bad = {"aa": content[:500], "bb": b"", "cc": content, "dd": content[:-1], "ee": b"[" * 20_000}
    for number, data in bad.items():
        folder.write(f"voice_00000000000000{number}.safetensors", data)
    folder.write("notes.txt", b"mine")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert store.list() == [good.info]
    assert len(caplog.records) == len(bad)
    for number in bad:
        with pytest.raises(UnknownVoice):
            store.get(f"voice_00000000000000{number}")


def test_what_another_service_changes_is_seen(folder: Folder) -> None:
    store, other = VoiceStore(folder), VoiceStore(folder)
    store.add(voice(1, "Anna"))
    assert other.info("Anna").id == voice(1, "").id
    store.add(voice(2, "Bert"))
    assert [info.name for info in other.list()] == ["Anna", "Bert"]
    store.change("Anna", name="Clara")
    assert other.info("Clara") == store.info("Clara")
    store.delete("Bert")
    assert [info.name for info in other.list()] == ["Clara"]
    with pytest.raises(UnknownVoice):
        other.get("Bert")


def test_only_what_has_changed_is_read_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = VoiceStore(folder)
    for number in range(20):
        store.add(voice(number, str(number)))
    store.list()
    read: list[str] = []
    kept = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name, end=None: read.append(name) or kept(self, name, end))
    assert len(store.list()) == 20
    assert read == []
    VoiceStore(folder).change("7", description="Changed.")
    read.clear()
    assert store.info("7", at_once=False).id == voice(7, "").id
    assert store.list()[7].description == "Changed."
    assert read == [f"{voice(7, '').id}.safetensors"]
