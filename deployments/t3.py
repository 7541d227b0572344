"""The T3 deployment: a thin shell over the engine."""

import asyncio
from collections.abc import AsyncIterator
from itertools import chain, repeat

from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.stages import T3Stage
from chatterbox_engine.types import SpeechRequest, TokenChunk
from deployments.faults import streams
from deployments.identity import Identity, Runtime
from deployments.metrics import StageMetrics
from deployments.settings import ServiceSettings
from deployments.voice_cache import VoiceCache


@serve.deployment(max_ongoing_requests=10_000, health_check_period_s=2, graceful_shutdown_timeout_s=120)
class T3:
    """Text to speech tokens. `max_ongoing_requests` is out of the way: the engine has the queue."""

    def __init__(self, settings: ServiceSettings, runtime: Runtime, voices: DeploymentHandle) -> None:
        checkpoint, device = runtime.enter("t3", settings)
        self._stage = T3Stage(checkpoint, settings.engine_config(), device)
        self._voices = VoiceCache(checkpoint, voices)
        self._identity = runtime.identity(checkpoint, device, self._stage.dtype)
        if self._voices.builtin is not None:
            self._stage.warm_up(self._voices.builtin)
        self._reporting = asyncio.ensure_future(StageMetrics("t3").run(self._stage.engine))

    @streams
    async def speak(
        self, request: SpeechRequest, sizes: tuple[int, ...], spoken: tuple[int, ...] = ()
    ) -> AsyncIterator[TokenChunk]:
        """Speak one piece of text, or go on after what another replica spoke of it; tokens come in the sizes that
        S3Gen's schedule wants, the last one repeating.

        Raises InvalidRequest, UnknownVoice, Overloaded, EngineDead.
        """
        voice = await self._voices.get(request.voice)
        stream = self._stage.speak(request.text, voice, request.sampling, request.language, spoken)
        try:
            for size in chain(sizes, repeat(sizes[-1])):
                tokens, final = await stream.aread(size)
                yield TokenChunk(tuple(tokens), final)
                if final:
                    return
        finally:
            stream.close()

    async def identity(self) -> Identity:
        """Answers once the replica is ready."""
        return self._identity

    async def live(self) -> dict[str, int]:
        """Requests at work and waiting, and tasks of the event loop."""
        engine = self._stage.engine
        return {"running": engine.running, "waiting": engine.waiting, "tasks": len(asyncio.all_tasks())}

    def check_health(self) -> None:
        self._stage.engine.check_alive()
