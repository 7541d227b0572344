"""The voices that a replica has at hand; the voices deployment has the rest."""

from collections import OrderedDict

from ray.serve.handle import DeploymentHandle

from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.errors import UnknownVoice
from chatterbox_engine.types import DEFAULT_VOICE
from chatterbox_engine.voice import Voice
from deployments.faults import ask

_MOST = 256
_TOLD = 64
"""Of them, what the router hears."""


class VoiceCache:
    """Voices by id. An id names a voice's content, so that what is cached never grows stale."""

    def __init__(self, checkpoint: Checkpoint, voices: DeploymentHandle) -> None:
        self.builtin = checkpoint.voice()
        self._voices = voices
        self._cached: OrderedDict[str, Voice] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cached) + (self.builtin is not None)

    def told(self) -> dict[str, list[str]]:
        """The voices that were asked for last, for the router."""
        return {"voices": list(self._cached)[-_TOLD:]}

    async def get(self, voice_id: str) -> Voice:
        """Raises UnknownVoice."""
        if voice_id == DEFAULT_VOICE:
            if self.builtin is None:
                raise UnknownVoice(voice_id)
            return self.builtin
        if voice_id not in self._cached:
            self._cached[voice_id] = await ask(self._voices, "get", voice_id)
            if len(self._cached) > _MOST:
                self._cached.popitem(last=False)
        self._cached.move_to_end(voice_id)
        return self._cached[voice_id]
