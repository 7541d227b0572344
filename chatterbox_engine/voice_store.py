"""Voices kept in a folder or a bucket, one file each. Names are free text; no path is made of one."""

import contextlib
import logging
import math
import threading
import time
import unicodedata
from dataclasses import replace

from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.folder import Entry, Folder
from chatterbox_engine.types import DEFAULT_VOICE
from chatterbox_engine.voice import HEADER_BYTES, VOICE_ID, Voice, VoiceInfo, read_info

logger = logging.getLogger(__name__)

_MAX_NAME, _MAX_DESCRIPTION = 64, 500
_VOICE, _DELETED = ".safetensors", ".deleted"
_STALE_S = 2.0
"""So late, at most, what another service changes in the same bucket is seen; a voice that is not known is looked for
at once."""
_KEPT_S = 86_400.0
"""Seconds for which a deleted voice's file is kept: longer than any stream."""


class VoiceStore:
    """Voices in a folder. Methods may be called from any thread, and wait for the disk or the network.

    Files that are no voices are passed over, each with one warning. Beside what they say, methods raise what the
    folder's file system does.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._known: dict[str, tuple[Entry, VoiceInfo | None]] = {}
        """What each file told when it was so; None: it is no voice."""
        self._listed: tuple[VoiceInfo, ...] = ()
        self._listed_at = -math.inf
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
            others = self._infos(fresh=True)
            if any(other.name == voice.name and other.id != voice.id for other in others):
                raise InvalidRequest(
                    f"There is another voice named {voice.name!r}. Choose another name, or delete that voice first.",
                    "name",
                )
            for same in (other for other in others if other.id == voice.id):
                voice = replace(voice, created=same.created)
            self._folder.write(f"{voice.id}{_VOICE}", voice.to_bytes())
            self._listed_at = -math.inf
            return voice.info

    def get(self, id_or_name: str) -> Voice:
        """Raises UnknownVoice; InvalidRequest where the file is damaged behind its header."""
        return self._read(f"{self.info(id_or_name).id}{_VOICE}")

    def info(self, id_or_name: str, *, at_once: bool = True) -> VoiceInfo:
        """Raises UnknownVoice. `at_once`: one that another service added just now is found, too."""
        for fresh in (False, True)[: 1 + at_once]:
            for info in self._infos(fresh=fresh):
                if id_or_name in (info.id, info.name):  # a name never looks like an id
                    return info
        raise UnknownVoice(id_or_name)

    def list(self) -> list[VoiceInfo]:
        """The voices there are, oldest first. Reads the headers of those files alone that have changed."""
        return [*self._infos(fresh=True)]

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
            voice = self.get(id_or_name)
            self._folder.write(f"{voice.id}{_DELETED}", voice.to_bytes())
            self._folder.remove(f"{voice.id}{_VOICE}")
            self._listed_at = -math.inf

    def deleted(self, voice_id: str) -> Voice:
        """A voice that was deleted within the last day, for streams that run with it. Raises UnknownVoice."""
        if not VOICE_ID.fullmatch(voice_id):
            raise UnknownVoice(voice_id)
        return self._read(f"{voice_id}{_DELETED}")

    def _read(self, file: str) -> Voice:
        try:
            return Voice.from_bytes(self._folder.read(file))
        except FileNotFoundError as error:
            raise UnknownVoice(file.partition(".")[0]) from error

    def _purge(self) -> None:
        for name in self._folder.files():
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(_DELETED) and self._folder.age(name) > _KEPT_S:
                    self._folder.remove(name)

    def _infos(self, *, fresh: bool) -> tuple[VoiceInfo, ...]:
        """`fresh`: the folder is looked through now, else within `_STALE_S` where that takes a network."""
        with self._lock:
            if fresh or self._folder.local or time.monotonic() - self._listed_at > _STALE_S:
                files = {name: entry for name, entry in self._folder.files().items() if name.endswith(_VOICE)}
                self._known = {name: self._told(name, entry) for name, entry in files.items()}
                infos = (info for _, info in self._known.values() if info is not None)
                self._listed = tuple(sorted(infos, key=lambda info: (info.created, info.id)))
                self._listed_at = time.monotonic()
            return self._listed

    def _told(self, name: str, entry: Entry) -> tuple[Entry, VoiceInfo | None]:
        if name in self._known and self._known[name][0] == entry:
            return self._known[name]
        info = None
        try:
            info = read_info(self._folder.read(name, min(HEADER_BYTES, entry.size)), entry.size)
            if name != f"{info.id}{_VOICE}" or not VOICE_ID.fullmatch(info.id):
                raise InvalidRequest("The file is not named by its voice's id.", "file")
        except (InvalidRequest, FileNotFoundError) as error:
            info = None
            if name not in self._warned:
                self._warned.add(name)
                logger.warning("Passed over in the voice folder: %s: %s", name, error)
        return entry, info


def check_name(name: str) -> str:
    """The name, if a voice may have it. Raises InvalidRequest (param "name")."""
    if not name.strip() or len(name) > _MAX_NAME:
        raise InvalidRequest(f"A voice's name has 1 to {_MAX_NAME} characters, not {len(name)}.", "name")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidRequest("A voice's name cannot have control characters.", "name")
    if name == DEFAULT_VOICE or VOICE_ID.fullmatch(name):
        raise InvalidRequest(f"The name {name!r} is reserved. Choose another.", "name")
    return name
