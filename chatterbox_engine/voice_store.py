"""Voices kept in a folder, one file each. Names are free text; no path is made of one."""

import contextlib
import logging
import os
import threading
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.voice import DEFAULT_VOICE, VOICE_ID, Voice, VoiceInfo, read_info

logger = logging.getLogger(__name__)

_MAX_NAME, _MAX_DESCRIPTION = 64, 500
_DELETED = ".deleted"
_KEPT_S = 86_400.0
"""Seconds for which a deleted voice's file is kept: longer than any stream."""


class VoiceStore:
    """Voices in a folder, which is made if it is not there. Methods may be called from any thread.

    Files that are no voices are passed over, each with one warning.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._warned: set[Path] = set()
        self._purge()

    def add(self, voice: Voice) -> VoiceInfo:
        """Keep a voice. The same clip again is the voice that is there, under the name given last.

        Raises InvalidRequest (param "name") for a name that cannot be or that another clip has; OSError where the
        disk cannot take it.
        """
        if not VOICE_ID.fullmatch(voice.id):
            raise InvalidRequest(f"{voice.id!r} is not the id of a voice made from a clip.", "id")
        check_name(voice.name)
        if len(voice.description) > _MAX_DESCRIPTION or not voice.description.isprintable():
            raise InvalidRequest(f"A description is one line of at most {_MAX_DESCRIPTION} characters.", "description")
        with self._lock:
            others = self._infos()
            if any(other.name == voice.name and other.id != voice.id for other in others):
                raise InvalidRequest(
                    f"There is another voice named {voice.name!r}. Choose another name, or delete that voice first.",
                    "name",
                )
            for same in (other for other in others if other.id == voice.id):
                voice = replace(voice, created=same.created)
            voice.save(self._path(voice.id))
            return voice.info

    def get(self, id_or_name: str) -> Voice:
        """Raises UnknownVoice; InvalidRequest where the file is damaged behind its header."""
        with self._lock:
            return Voice.load(self._path(self._find(id_or_name).id))

    def info(self, id_or_name: str) -> VoiceInfo:
        """Raises UnknownVoice."""
        with self._lock:
            return self._find(id_or_name)

    def list(self) -> list[VoiceInfo]:
        """The voices there are, oldest first. Reads the files' headers alone."""
        with self._lock:
            return [*self._infos()]

    def change(self, id_or_name: str, *, name: str | None = None, description: str | None = None) -> VoiceInfo:
        """Give a voice another name or description; None leaves it. Raises UnknownVoice, and what `add` raises."""
        voice = self.get(id_or_name)
        if name is not None:
            voice = replace(voice, name=name)
        if description is not None:
            voice = replace(voice, description=description)
        return self.add(voice)

    def delete(self, id_or_name: str) -> None:
        """It is in no list any more, but `deleted` has it for a day. Raises UnknownVoice."""
        with self._lock:
            self._purge()
            path = self._path(self._find(id_or_name).id)
            os.utime(path)
            path.replace(path.with_suffix(_DELETED))

    def deleted(self, voice_id: str) -> Voice:
        """A voice that was deleted within the last day, for streams that run with it. Raises UnknownVoice."""
        path = self._folder / f"{voice_id}{_DELETED}"
        if not VOICE_ID.fullmatch(voice_id) or not path.is_file():
            raise UnknownVoice(voice_id)
        return Voice.load(path)

    def _purge(self) -> None:
        for path in self._folder.glob(f"*{_DELETED}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _KEPT_S:
                    path.unlink()

    def _find(self, id_or_name: str) -> VoiceInfo:
        for info in self._infos():
            if id_or_name in (info.id, info.name):  # a name never looks like an id
                return info
        raise UnknownVoice(id_or_name)

    def _infos(self) -> tuple[VoiceInfo, ...]:
        infos = []
        for path in self._folder.glob("*.safetensors"):
            try:
                info = read_info(path)
                if info.id != path.stem or not VOICE_ID.fullmatch(info.id):
                    raise InvalidRequest(f"{path} is not named by its voice's id.", "file")
                infos.append(info)
            except InvalidRequest as error:
                if path not in self._warned:
                    self._warned.add(path)
                    logger.warning("Passed over in the voice folder: %s", error)
        return tuple(sorted(infos, key=lambda info: (info.created, info.id)))

    def _path(self, voice_id: str) -> Path:
        return self._folder / f"{voice_id}.safetensors"


def check_name(name: str) -> str:
    """The name, if a voice may have it. Raises InvalidRequest (param "name")."""
    if not name.strip() or len(name) > _MAX_NAME:
        raise InvalidRequest(f"A voice's name has 1 to {_MAX_NAME} characters, not {len(name)}.", "name")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidRequest("A voice's name cannot have control characters.", "name")
    if name == DEFAULT_VOICE or VOICE_ID.fullmatch(name):
        raise InvalidRequest(f"The name {name!r} is reserved. Choose another.", "name")
    return name
