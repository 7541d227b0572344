"""Keys: told once, kept as digests, refused as soon as they are removed."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.errors import InvalidRequest
from deployments import keys
from deployments.keys import KeyRing


def test_a_key_is_told_once_and_kept_as_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "keys.json"
    secret = keys.add(file, "anna", streams=2)
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    ring = KeyRing(file)
    found = ring.find(secret)
    assert found is not None
    assert (found.name, found.streams, found.requests_per_minute) == ("anna", 2, None)
    assert ring.find(secret + "x") is None
    assert ring.find("") is None
    assert keys.add(file, "ben") != secret


def test_a_running_service_sees_what_is_added_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    anna = keys.add(file, "anna")
    ring = KeyRing(file)
    ben = keys.add(file, "ben")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    assert ring.find(ben) is not None
    keys.remove(file, "anna")
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    assert ring.find(anna) is None
    assert ring.find(ben) is not None


def test_the_last_keys_stay_while_the_file_is_gone_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(keys.logger, "error", lambda message, *_: said.append(message))
    file = tmp_path / "keys.json"
    anna = keys.add(file, "anna")
    ring, now = KeyRing(file), time.monotonic()
    content = file.read_bytes()
    for step, change in enumerate((file.unlink, lambda: file.write_text("[broken"), lambda: file.write_bytes(content))):
        change()
        for look in range(2):
            at = now + 4 * step + 2 * look + 2
            monkeypatch.setattr(time, "monotonic", lambda at=at: at)
            assert ring.find(anna) is not None
    assert said == ["The keys stay those that were read last: %s"] * 2
    keys.remove(file, "anna")
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert ring.find(anna) is None


@given(st.text(max_size=80))
def test_names_are_plain(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    plain = name.isascii() and 1 <= len(name) <= 64 and all(c.isalnum() or c in "._-" for c in name)
    if plain:
        keys.add(file, name)
        with pytest.raises(InvalidRequest, match="There is a key"):
            keys.add(file, name)
    else:
        with pytest.raises(InvalidRequest, match="letters"):
            keys.add(file, name)


@pytest.mark.parametrize("content", ["", "{}", '[{"name": "a"}]', '[{"name": "a", "digest": "b"}]', '[{"key": 1}]'])
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=r"keys\.json"):
        KeyRing(file)
