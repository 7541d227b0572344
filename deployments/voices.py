"""The voices deployment: keeps voices, and makes them from clips."""

import asyncio
from typing import Any

from ray import serve

from chatterbox_engine.clip import read_clip
from chatterbox_engine.errors import InvalidRequest, UnknownVoice
from chatterbox_engine.voice import DEFAULT_VOICE, Voice, VoiceInfo
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.voice_store import VoiceStore, check_name
from deployments.faults import answers
from deployments.identity import Runtime
from deployments.settings import ServiceSettings

_BUILTIN = {"id": DEFAULT_VOICE, "object": "voice", "name": DEFAULT_VOICE, "created": 0, "builtin": True}
_OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)


@serve.deployment(max_ongoing_requests=1000, health_check_period_s=5)
class Voices:
    """A folder of voices and, from the first upload on, the networks that listen to a clip."""

    def __init__(self, settings: ServiceSettings, runtime: Runtime) -> None:
        self._checkpoint, _ = runtime.enter("voices", settings)
        self._store = VoiceStore(settings.voices_folder)
        self._encoder: VoiceEncoder | None = None
        self._encoding = asyncio.Lock()

    @answers
    async def resolve(self, voice: str) -> str:
        """The id of a voice given by name or id; OpenAI's names mean the default unless a voice has one. Raises
        UnknownVoice."""
        if voice == DEFAULT_VOICE:
            return voice
        try:
            return self._store.info(voice).id
        except UnknownVoice:
            if voice in _OPENAI_VOICES:
                return DEFAULT_VOICE
            raise

    @answers
    async def get(self, voice_id: str) -> Voice:
        """Raises UnknownVoice."""
        return self._store.get(voice_id)

    @answers
    async def catalogue(self) -> list[dict[str, Any]]:
        """The built-in voice first."""
        return [_BUILTIN, *(_as_object(info) for info in self._store.list())]

    @answers
    async def describe(self, voice: str) -> dict[str, Any]:
        """One voice, by name or id. Raises UnknownVoice."""
        if voice == DEFAULT_VOICE:
            return _BUILTIN
        return _as_object(self._store.info(voice))

    @answers
    async def add(self, clip: bytes, name: str) -> dict[str, Any]:
        """Make a voice from a clip; the same clip twice is one voice. Raises InvalidRequest."""
        check_name(name)
        rules = self._checkpoint.spec.clip
        samples = await asyncio.to_thread(read_clip, clip, min_s=rules.min_s, max_s=rules.max_s)
        async with self._encoding:
            voice = await asyncio.to_thread(self._encode, samples, name)
        return _as_object(self._store.add(voice))

    @answers
    async def delete(self, voice: str) -> None:
        """Streams that run with the voice keep it to their end. Raises UnknownVoice, InvalidRequest."""
        if voice == DEFAULT_VOICE:
            raise InvalidRequest("The built-in voice cannot be deleted.", "voice")
        self._store.delete(voice)

    def _encode(self, samples: Any, name: str) -> Voice:
        if self._encoder is None:
            self._encoder = self._checkpoint.voice_encoder()
        return self._encoder.encode(samples, name)


def _as_object(info: VoiceInfo) -> dict[str, Any]:
    return {"id": info.id, "object": "voice", "name": info.name, "created": info.created, "builtin": False}
