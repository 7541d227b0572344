"""The voices deployment: keeps voices, and makes them from clips."""

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve

from chatterbox_engine.clip import prepared, read_clip
from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.voice import DEFAULT_VOICE, Voice, VoiceInfo
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.voice_store import VoiceStore, check_name
from deployments.faults import answers
from deployments.identity import Runtime
from deployments.settings import ServiceSettings

_BUILTIN = {
    "id": DEFAULT_VOICE,
    "object": "voice",
    "name": DEFAULT_VOICE,
    "created": 0,
    "builtin": True,
    "private": False,
}
_OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)


_PRIVATE = "of-"
"""Folders of the voices that one key alone may use begin with it."""


@serve.deployment(max_ongoing_requests=1000, health_check_period_s=5)
class Voices:
    """A folder of voices and, from the first upload on, the networks that listen to a clip."""

    def __init__(self, settings: ServiceSettings, runtime: Runtime) -> None:
        self._checkpoint, _ = runtime.enter("voices", settings)
        self._folder = settings.voices_folder
        self._stores: dict[Path, VoiceStore] = {}
        self._shared = self._store(self._folder)
        self._default = settings.default_voice
        self._consent = settings.require_consent
        self._prepare = settings.prepare_clips
        self._encoder: VoiceEncoder | None = None
        self._encoding = asyncio.Lock()

    @answers
    async def resolve(self, voice: str, shelf: str | None) -> str:
        """The id of a voice given by name or id; OpenAI's names mean the default unless a voice has one. Raises
        UnknownVoice."""
        if voice == DEFAULT_VOICE:
            voice = self._default
        if voice == DEFAULT_VOICE:
            return voice
        try:
            return self._find(voice, shelf)[1].id
        except UnknownVoice:
            if voice in _OPENAI_VOICES:
                return DEFAULT_VOICE if self._default == DEFAULT_VOICE else self._find(self._default, shelf)[1].id
            raise

    @answers
    async def get(self, voice_id: str) -> Voice:
        """By the id that `resolve` told, whoever it belongs to. Raises UnknownVoice."""
        stores = [self._shared, *map(self._store, self._folder.glob(f"{_PRIVATE}*"))]
        for read in (*(store.get for store in stores), *(store.deleted for store in stores)):
            with contextlib.suppress(UnknownVoice):
                return read(voice_id)
        raise UnknownVoice(voice_id)

    @answers
    async def catalogue(self, shelf: str | None) -> list[dict[str, Any]]:
        """The built-in voice first, then those of the shelf, then those that are everybody's."""
        return [_BUILTIN, *(_as_object(info, name) for name, store in self._visible(shelf) for info in store.list())]

    @answers
    async def describe(self, voice: str, shelf: str | None) -> dict[str, Any]:
        """One voice, by name or id. Raises UnknownVoice."""
        if voice == DEFAULT_VOICE:
            return _BUILTIN
        name, info = self._find(voice, shelf)
        return _as_object(info, name)

    @answers
    async def add(
        self, clip: bytes, name: str, shelf: str | None, description: str = "", consent: bool = False
    ) -> dict[str, Any]:
        """Make a voice from a clip; the same clip twice is one voice. Raises InvalidRequest."""
        check_name(name)
        if self._consent and not consent:
            message = "This service takes voices of speakers who agreed to it: say so with consent=true."
            raise InvalidRequest(message, "consent")
        rules = self._checkpoint.spec.clip
        samples = await asyncio.to_thread(read_clip, clip, min_s=rules.min_s, max_s=rules.max_s)
        if self._prepare:
            samples = await asyncio.to_thread(prepared, samples, min_s=rules.min_s)
        async with self._encoding:
            voice = await asyncio.to_thread(self._encode, samples, name)
        store = self._shared if shelf is None else self._store(self._private(shelf))
        return _as_object(store.add(replace(voice, description=description, consent=consent)), shelf)

    @answers
    async def change(self, voice: str, shelf: str | None, name: str | None, description: str | None) -> dict[str, Any]:
        """Give one of the shelf's voices another name or description. Raises UnknownVoice, InvalidRequest."""
        return _as_object(self._own(voice, shelf).change(voice, name=name, description=description), shelf)

    @answers
    async def delete(self, voice: str, shelf: str | None) -> None:
        """Streams that run with the voice keep it to their end. Raises UnknownVoice, InvalidRequest."""
        self._own(voice, shelf).delete(voice)

    def _own(self, voice: str, shelf: str | None) -> VoiceStore:
        """The store of a voice that a shelf's caller may change. Raises UnknownVoice, InvalidRequest."""
        if voice == DEFAULT_VOICE:
            raise InvalidRequest("The built-in voice can be neither changed nor deleted.", "voice")
        if self._find(voice, shelf)[0] != shelf:
            raise InvalidRequest("The voice is everybody's, and this key may neither change nor delete it.", "voice")
        return dict(self._visible(shelf))[shelf]

    def _store(self, folder: Path) -> VoiceStore:
        """One for each folder, which then warns of a foreign file once."""
        if folder not in self._stores:
            self._stores[folder] = VoiceStore(folder)
        return self._stores[folder]

    def _private(self, shelf: str) -> Path:
        """No path is made of a name."""
        return self._folder / f"{_PRIVATE}{hashlib.sha256(shelf.encode()).hexdigest()[:32]}"

    def _visible(self, shelf: str | None) -> list[tuple[str | None, VoiceStore]]:
        """Its own first."""
        own = shelf is not None and self._private(shelf).is_dir()
        return [*([(shelf, self._store(self._private(shelf)))] if shelf and own else []), (None, self._shared)]

    def _find(self, voice: str, shelf: str | None) -> tuple[str | None, VoiceInfo]:
        """The shelf it is on, and the voice. Raises UnknownVoice."""
        for name, store in self._visible(shelf):
            with contextlib.suppress(UnknownVoice):
                return name, store.info(voice)
        raise UnknownVoice(voice)

    def _encode(self, samples: Any, name: str) -> Voice:
        if self._encoder is None:
            self._encoder = self._checkpoint.voice_encoder()
        return self._encoder.encode(samples, name)


def _as_object(info: VoiceInfo, shelf: str | None) -> dict[str, Any]:
    told = {"id": info.id, "object": "voice", "name": info.name, "created": info.created, "builtin": False}
    return {**told, "private": shelf is not None, "description": info.description, "consent": info.consent}
