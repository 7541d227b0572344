"""Voices that belong to a key are nobody else's; those of nobody are everybody's."""

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from chatterbox_engine.errors import ChatterboxError, InvalidRequest, UnknownVoice
from chatterbox_engine.folder import Folder
from chatterbox_engine.voice import Voice
from deployments.faults import StoreUnavailable
from deployments.runtime import Runtime
from deployments.settings import ServiceSettings
from deployments.voices import Voices
from loadtest.sounds import clip
from tests.deployments.replica import replica


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Anna's and Ben's own of the same name, and one of everybody's."""
    settings = ServiceSettings(model="dummy:tiny", device="cpu", voices_folder=str(tmp_path_factory.mktemp("voices")))
    made = asyncio.run(_made(settings))
    made.folder = Path(settings.voices_folder)
    return made


async def _begun(settings: ServiceSettings) -> Any:
    return replica(Voices, settings, Runtime("cpu", 1, "test"))


async def _made(settings: ServiceSettings) -> Any:
    voices = await _begun(settings)
    for pitch, name, shelf in ((120.0, "Mine", "anna"), (200.0, "Mine", "ben"), (160.0, "Ours", None)):
        added = await voices.add(clip(pitch=pitch), name, shelf)
        assert not isinstance(added, ChatterboxError), added
    return voices


def ask(voices: Any, method: str, *arguments: Any) -> Any:
    answer = asyncio.run(getattr(voices, method)(*arguments))
    if isinstance(answer, ChatterboxError):
        raise answer
    return answer


def names(voices: Any, shelf: str | None) -> list[tuple[str, bool]]:
    return [(voice["name"], voice["private"]) for voice in ask(voices, "catalogue", shelf)]


def test_each_sees_its_own_and_everybodys(voices: Any) -> None:
    assert names(voices, "anna") == names(voices, "ben") == [("default", False), ("Mine", True), ("Ours", False)]
    assert names(voices, None) == names(voices, "carl") == [("default", False), ("Ours", False)]
    assert ask(voices, "resolve", "Mine", "anna") != ask(voices, "resolve", "Mine", "ben")
    assert ask(voices, "resolve", "Ours", "anna") == ask(voices, "resolve", "Ours", None)


@pytest.mark.parametrize("method", ["resolve", "describe", "delete"])
def test_nobody_reaches_anothers_voice_by_its_name_or_id(voices: Any, method: str) -> None:
    own = ask(voices, "resolve", "Mine", "anna")
    for shelf in ("ben", "carl", None):
        with pytest.raises(UnknownVoice):
            ask(voices, method, own, shelf)
    with pytest.raises(UnknownVoice):
        ask(voices, method, "Mine", "carl")
    assert ask(voices, "resolve", own, "anna") == own


def test_everybodys_voice_is_deleted_by_those_alone_who_may(voices: Any) -> None:
    with pytest.raises(InvalidRequest, match="everybody"):
        ask(voices, "delete", "Ours", "anna")
    added = ask(voices, "add", clip(pitch=90.0), "Short", None)
    ask(voices, "delete", added["id"], None)
    assert "Short" not in dict(names(voices, None))


def test_a_stage_gets_a_voice_by_the_id_it_was_resolved_to(voices: Any) -> None:
    own = ask(voices, "resolve", "Mine", "ben")
    got = ask(voices, "get", own)
    assert isinstance(got, Voice)
    assert got.id == own
    with pytest.raises(UnknownVoice):
        ask(voices, "get", "voice_nowhere")


def test_a_voice_is_described_and_renamed_by_whose_it_is(voices: Any) -> None:
    added = ask(voices, "add", clip(pitch=95.0), "Told", "anna", "A low hum.", True)
    assert (added["description"], added["consent"]) == ("A low hum.", True)
    assert ask(voices, "change", "Told", "anna", "Retold", None)["name"] == "Retold"
    for shelf in ("ben", None):
        with pytest.raises(UnknownVoice):
            ask(voices, "change", added["id"], shelf, "Stolen", None)
    with pytest.raises(InvalidRequest, match="everybody"):
        ask(voices, "change", "Ours", "anna", "Mine too", None)
    with pytest.raises(InvalidRequest, match="built-in"):
        ask(voices, "change", "default", None, "Other", None)
    ask(voices, "delete", added["id"], "anna")
    assert ask(voices, "get", added["id"]).id == added["id"]  # a stream may still run with it


def test_default_may_be_another_voice_and_consent_be_asked_for(tmp_path: Path) -> None:
    settings = ServiceSettings(
        model="dummy:tiny", device="cpu", voices_folder=str(tmp_path), default_voice="House", require_consent=True
    )

    voices = asyncio.run(_begun(settings))
    with pytest.raises(UnknownVoice, match="House"):
        ask(voices, "resolve", "default", None)
    with pytest.raises(InvalidRequest, match="consent"):
        ask(voices, "add", clip(pitch=140.0), "House", None)
    house = ask(voices, "add", clip(pitch=140.0), "House", None, "", True)
    for name in ("default", "alloy", "House"):
        assert ask(voices, "resolve", name, None) == ask(voices, "resolve", name, "anna") == house["id"]


def test_no_path_is_made_of_a_name(voices: Any) -> None:
    ask(voices, "add", clip(pitch=110.0), "Away", "../../etc")
    folder: Path = voices.folder
    assert {path.name[:3] for path in folder.iterdir() if path.is_dir()} == {"of-"}
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["path", "bucket"])
def test_voices_are_found_again_by_the_next_that_looks_after_them(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path) if kind == "path" else f"memory://{tmp_path}"
    settings = ServiceSettings(model="dummy:tiny", device="cpu", voices_folder=address)
    first, then = asyncio.run(_made(settings)), asyncio.run(_begun(settings))
    for shelf in ("anna", "ben", None):
        assert names(then, shelf) == names(first, shelf)
    own = ask(first, "resolve", "Mine", "anna")
    assert ask(then, "get", own).id == own  # whoever it belongs to, also before it is resolved here
    ask(first, "delete", own, "anna")
    assert ask(then, "get", own).id == own
    assert "Mine" not in dict(names(then, "anna"))
    with pytest.raises(UnknownVoice):
        ask(then, "resolve", own, "anna")


def test_a_full_or_a_hanging_disk_is_said_and_the_built_in_voice_goes_on(
    voices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = names(voices, None)
    with monkeypatch.context() as disk:
        disk.setattr(Folder, "write", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            ask(voices, "add", clip(pitch=85.0), "Late", None)
        with pytest.raises(StoreUnavailable, match="No space left"):
            ask(voices, "delete", "Ours", None)
    assert names(voices, None) == before
    with monkeypatch.context() as disk:
        disk.setattr(Folder, "files", lambda _: time.sleep(0.5) or {})
        disk.setattr("deployments.voices._STORE_S", 0.1)
        with pytest.raises(StoreUnavailable, match="not answered"):
            ask(voices, "resolve", "Ours", None)
        assert ask(voices, "resolve", "default", None) == "default"
    assert names(voices, None) == before
