"""Voices kept in a folder, one file each. Names are free text; no path is made of one."""

import logging
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path

from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.voice import DEFAULT_VOICE, VOICE_ID, Voice, VoiceInfo, read_info

logger = logging.getLogger(__name__)

_MAX_NAME = 64


class VoiceStore:
    """Voices in a folder, which is made if it is not there. Methods may be called from any thread.

    Files that are no voices are passed over, each with one warning.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._warned: set[Path] = set()

    def add(self, voice: Voice) -> VoiceInfo:
        """Keep a voice. The same clip again is the voice that is there, under the name given last.

        Raises InvalidRequest (param "name") for a name that cannot be or that another clip has; OSError where the
        disk cannot take it.
        """
        if not VOICE_ID.fullmatch(voice.id):
            raise InvalidRequest(f"{voice.id!r} is not the id of a voice made from a clip.", "id")
        check_name(voice.name)
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

    def delete(self, id_or_name: str) -> None:
        """Raises UnknownVoice."""
        with self._lock:
            self._path(self._find(id_or_name).id).unlink(missing_ok=True)

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
