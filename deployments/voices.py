"""The voices deployment: keeps voices, and makes them from clips."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from ray import serve

from chatterbox_engine.clip import prepared, read_clip
from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.folder import Folder
from chatterbox_engine.types import DEFAULT_VOICE
from chatterbox_engine.voice import Voice, VoiceInfo
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.voice_store import VoiceStore, check_name
from deployments.faults import StoreUnavailable, answers
from deployments.runtime import Runtime
from deployments.settings import ServiceSettings
from deployments.watchdog import watch

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
_STORE_S = 10.0
"""Seconds that a request waits for a disk or a bucket."""
Given = ParamSpec("Given")
Result = TypeVar("Result")


@serve.deployment(max_ongoing_requests=1000, health_check_period_s=2, health_check_timeout_s=3)
class Voices:
    """A folder or bucket of voices and, from the first upload on, the networks that listen to a clip."""

    def __init__(self, settings: ServiceSettings, runtime: Runtime) -> None:
        self._checkpoint, _ = runtime.enter("voices", settings)
        self._folder = Folder(settings.voices_folder)
        self._folder.make()
        self._stores: dict[str | None, VoiceStore] = {}
        """By the folder's name in it; None: everybody's."""
        self._holders: dict[str, VoiceStore] = {}
        """Where the voices are that were resolved last, by id."""
        self._default = settings.default_voice
        self._consent = settings.require_consent
        self._prepare = settings.prepare_clips
        self._max_bytes = settings.max_upload_bytes
        self._encoder: VoiceEncoder | None = None
        self._encoding = asyncio.Lock()
        watch()

    @answers
    async def resolve(self, voice: str, shelf: str | None) -> str:
        """The id of a voice given by name or id; OpenAI's names mean the default unless a voice has one. Raises
        UnknownVoice."""
        if voice == DEFAULT_VOICE:
            voice = self._default
        return voice if voice == DEFAULT_VOICE else await kept(self._resolve, voice, shelf)

    @answers
    async def get(self, voice_id: str) -> Voice:
        """By the id that `resolve` told, whoever it belongs to. Raises UnknownVoice."""
        return await kept(self._get, voice_id)

    @answers
    async def catalogue(self, shelf: str | None) -> list[dict[str, Any]]:
        """The built-in voice first, then those of the shelf, then those that are everybody's."""
        return [_BUILTIN, *await kept(self._list, shelf)]

    @answers
    async def describe(self, voice: str, shelf: str | None) -> dict[str, Any]:
        """One voice, by name or id. Raises UnknownVoice."""
        if voice == DEFAULT_VOICE:
            return _BUILTIN
        return _as_object(*await kept(self._find, voice, shelf))

    @answers
    async def add(
        self, clip: bytes, name: str, shelf: str | None, description: str = "", consent: bool = False
    ) -> dict[str, Any]:
        """Make a voice from a clip; the same clip twice is one voice. Raises InvalidRequest."""
        check_name(name)
        self._checkpoint.check_cloning()
        if self._consent and not consent:
            message = "This service takes voices of speakers who agreed to it: say so with consent=true."
            raise InvalidRequest(message, "consent")
        rules = self._checkpoint.spec.clip
        samples = await asyncio.to_thread(
            read_clip, clip, min_s=rules.min_s, max_s=rules.max_s, max_bytes=self._max_bytes
        )
        if self._prepare:
            samples = await asyncio.to_thread(prepared, samples, min_s=rules.min_s)
        async with self._encoding:
            voice = await asyncio.to_thread(self._encode, samples, name)
        store = await kept(self._store, None if shelf is None else private(shelf))
        voice = replace(voice, description=description, consent=consent)
        return _as_object(shelf, await kept(store.add, voice))

    @answers
    async def change(self, voice: str, shelf: str | None, name: str | None, description: str | None) -> dict[str, Any]:
        """Give one of the shelf's voices another name or description. Raises UnknownVoice, InvalidRequest."""
        return _as_object(shelf, await kept(self._change, voice, shelf, name, description))

    @answers
    async def delete(self, voice: str, shelf: str | None) -> None:
        """Streams that run with the voice keep it to their end. Raises UnknownVoice, InvalidRequest."""
        await kept(self._delete, voice, shelf)

    def _resolve(self, voice: str, shelf: str | None) -> str:
        theirs = voice in _OPENAI_VOICES
        try:
            return self._find(voice, shelf, at_once=not theirs)[1].id
        except UnknownVoice:
            if not theirs:
                raise
            return DEFAULT_VOICE if self._default == DEFAULT_VOICE else self._find(self._default, shelf)[1].id

    def _get(self, voice_id: str) -> Voice:
        if voice_id in self._holders:
            with contextlib.suppress(UnknownVoice):
                return self._holders[voice_id].get(voice_id)
        names = (name for name in self._folder.folders() if name.startswith(_PRIVATE))
        stores = [self._store(name) for name in (None, *names)]
        for read in (*(store.get for store in stores), *(store.deleted for store in stores)):
            with contextlib.suppress(UnknownVoice):
                return read(voice_id)
        raise UnknownVoice(voice_id)

    def _list(self, shelf: str | None) -> list[dict[str, Any]]:
        return [_as_object(name, info) for name, store in self._visible(shelf) for info in store.list()]

    def _change(self, voice: str, shelf: str | None, name: str | None, description: str | None) -> VoiceInfo:
        return self._own(voice, shelf).change(voice, name=name, description=description)

    def _delete(self, voice: str, shelf: str | None) -> None:
        self._own(voice, shelf).delete(voice)

    def _own(self, voice: str, shelf: str | None) -> VoiceStore:
        """The store of a voice that a shelf's caller may change. Raises UnknownVoice, InvalidRequest."""
        if voice == DEFAULT_VOICE:
            raise InvalidRequest("The built-in voice can be neither changed nor deleted.", "voice")
        if self._find(voice, shelf)[0] != shelf:
            raise InvalidRequest("The voice is everybody's, and this key may neither change nor delete it.", "voice")
        return dict(self._visible(shelf))[shelf]

    def _store(self, folder: str | None) -> VoiceStore:
        """One for each folder, which then warns of a foreign file once."""
        if folder not in self._stores:
            self._stores[folder] = VoiceStore(self._folder.under(folder) if folder else self._folder)
        return self._stores[folder]

    def _visible(self, shelf: str | None) -> list[tuple[str | None, VoiceStore]]:
        """Its own first."""
        own = [] if shelf is None else [(shelf, self._store(private(shelf)))]
        return [*own, (None, self._store(None))]

    def _find(self, voice: str, shelf: str | None, *, at_once: bool = True) -> tuple[str | None, VoiceInfo]:
        """The shelf it is on, and the voice. Raises UnknownVoice."""
        for name, store in self._visible(shelf):
            with contextlib.suppress(UnknownVoice):
                info = store.info(voice, at_once=at_once)
                self._holders[info.id] = store
                return name, info
        raise UnknownVoice(voice)

    def _encode(self, samples: Any, name: str) -> Voice:
        if self._encoder is None:
            self._encoder = self._checkpoint.voice_encoder()
        return self._encoder.encode(samples, name)


async def kept(call: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
    """A call of the stores, in a thread, since they wait for a disk or a network. Raises StoreUnavailable where that
    fails or takes too long, and what the call raises."""
    try:
        async with asyncio.timeout(_STORE_S):
            return await asyncio.to_thread(call, *arguments, **named)
    except TimeoutError as error:
        raise StoreUnavailable(f"The folder of voices has not answered within {_STORE_S:g} s.") from error
    except OSError as error:
        raise StoreUnavailable(f"The folder of voices cannot be used: {error.strerror or error}.") from error


def private(shelf: str) -> str:
    """The folder of a shelf's own voices; no path is made of a name."""
    return f"{_PRIVATE}{hashlib.sha256(shelf.encode()).hexdigest()[:32]}"


def _as_object(shelf: str | None, info: VoiceInfo) -> dict[str, Any]:
    told = {"id": info.id, "object": "voice", "name": info.name, "created": info.created, "builtin": False}
    return {**told, "private": shelf is not None, "description": info.description, "consent": info.consent}
