"""The T3 deployment: a thin shell over the engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.types import SpeechRequest, TokenChunk
from deployments.faults import streams
from deployments.identity import Identity
from deployments.runtime import Runtime
from deployments.settings import ServiceSettings
from deployments.talker import Talker
from deployments.voice_cache import VoiceCache
from deployments.watchdog import watch


@serve.deployment(
    max_ongoing_requests=10_000, health_check_period_s=2, health_check_timeout_s=3, graceful_shutdown_timeout_s=120
)
class T3:
    """Text to speech tokens. `max_ongoing_requests` is out of the way: the engine has the queue."""

    def __init__(self, settings: ServiceSettings, runtime: Runtime, voices: DeploymentHandle) -> None:
        checkpoint, device = runtime.enter("t3", settings)
        self._voices = VoiceCache(checkpoint, voices)
        self._talker = Talker(settings, runtime, checkpoint, device, self._voices)
        watch(self.check_health)

    @streams
    async def speak(
        self, request: SpeechRequest, sizes: tuple[int, ...], spoken: tuple[int, ...] = (), slack_s: float = 0.0
    ) -> AsyncIterator[TokenChunk]:
        """See Talker.speak."""
        tokens = self._talker.speak(request, sizes, spoken, slack_s)
        try:
            async for chunk in tokens:
                yield chunk
        finally:
            await tokens.aclose()

    async def identities(self) -> dict[str, Identity]:
        """Answers once the replica is ready."""
        return {"t3": self._talker.identity}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For deployments/scaling.py."""
        return self._talker.load.figures()

    async def record_routing_stats(self) -> dict[str, Any]:
        """For deployments/routing.py."""
        return {**self._voices.told(), **self._talker.load.seat()}

    async def turned_away(self, streams: int) -> None:
        """See Load.turned_away."""
        self._talker.load.turned_away(streams)

    async def live(self) -> dict[str, dict[str, int]]:
        """Requests at work and waiting, and tasks of the event loop."""
        return {"t3": {**self._talker.live(), "tasks": len(asyncio.all_tasks())}}

    def check_health(self) -> None:
        self._talker.check_health()
