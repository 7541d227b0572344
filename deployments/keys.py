"""Who may use the service: API keys in a file, hashed, and what each may ask for."""

import hashlib
import json
import logging
import os
import re
import secrets
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.files import whole

logger = logging.getLogger("ray.serve")

_PREFIX = "cbx-"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LOOK_AGAIN_S = 1.0


class Key(BaseModel):
    """A key as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME.pattern)
    digest: str = Field(pattern="[0-9a-f]{64}")
    """SHA-256 of the key. A key is 256 random bits, so that no salt and no slow hash is needed."""
    requests_per_minute: int | None = Field(None, ge=1)
    streams: int | None = Field(None, ge=1)
    """At a time."""
    shared_voices: bool = False
    """Voices that it adds are everybody's, and it may delete everybody's."""


_KEYS = TypeAdapter(tuple[Key, ...])


class KeyRing:
    """The keys of a file, read again when it has changed; those read last stay while it is gone or broken. Methods are
    called from one thread."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest where the file is there and is none of keys; FileNotFoundError where it is not."""
        self._path = path
        self._read_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._by_digest: dict[str, Key] = {}
        self._wrong = ""
        """Why the file could not be read the last time."""
        self._refresh()

    def find(self, presented: str) -> Key | None:
        """The key that was presented, if it is one."""
        if time.monotonic() - self._read_at > _LOOK_AGAIN_S:
            try:
                self._refresh()
                self._wrong = ""
            except (InvalidRequest, OSError) as error:
                if str(error) != self._wrong:
                    self._wrong = str(error)
                    logger.error("The keys stay those that were read last: %s", error)
        return self._by_digest.get(digest(presented))

    def _refresh(self) -> None:
        self._read_at = time.monotonic()
        status = self._path.stat()
        stamp = status.st_mtime_ns, status.st_ino
        if stamp != self._stamp:
            self._by_digest = {key.digest: key for key in read(self._path)}
            self._stamp = stamp


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def read(path: Path) -> tuple[Key, ...]:
    """Raises InvalidRequest, FileNotFoundError."""
    try:
        return _KEYS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidRequest(f"{path} is no file of keys: {InvalidRequest.of(error)}", "keys_file") from error


def write(path: Path, keys: tuple[Key, ...]) -> None:
    """All of them, or the file as it was; readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump([key.model_dump(exclude_defaults=True) for key in keys], file, indent=1)
        file.write("\n")


def add(path: Path, name: str, **limits: int | bool | None) -> str:
    """Make a key and keep its digest; the key itself is told this once. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest("A key's name has 1 to 64 letters, digits, dots, dashes or underscores.", "name")
    keys = read(path) if path.is_file() else ()
    if any(key.name == name for key in keys):
        raise InvalidRequest(f"There is a key named {name!r}. Remove it first, or choose another name.", "name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    try:
        key = Key.model_validate({"name": name, "digest": digest(secret), **limits})
    except ValidationError as error:
        raise InvalidRequest.of(error) from error
    write(path, (*keys, key))
    return secret


def remove(path: Path, name: str) -> None:
    """Running services refuse it within a second. Raises InvalidRequest."""
    keys = read(path)
    left = tuple(key for key in keys if key.name != name)
    if len(left) == len(keys):
        raise InvalidRequest(f"There is no key named {name!r}.", "name")
    write(path, left)
