"""T3 in a replica's process, whether it is T3's own or one that both stages share."""

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import chain, repeat

import torch

from chatterbox_engine.checkpoint import Checkpoint
from chatterbox_engine.metrics import Readings
from chatterbox_engine.readings import device_readings, t3_readings
from chatterbox_engine.stages import T3Stage
from chatterbox_engine.types import SpeechRequest, TokenChunk
from deployments.identity import Identity
from deployments.load import Load
from deployments.metrics import StageMetrics
from deployments.runtime import Runtime
from deployments.settings import ServiceSettings
from deployments.tracing import Tracer
from deployments.voice_cache import VoiceCache


class Talker:
    """Text to speech tokens. Made within a running event loop."""

    def __init__(
        self,
        settings: ServiceSettings,
        runtime: Runtime,
        checkpoint: Checkpoint,
        device: torch.device,
        voices: VoiceCache,
    ) -> None:
        """Returns once it is warm."""
        begin = time.monotonic()
        self._stage = T3Stage(checkpoint, settings.engine_config(), device)
        self._voices = voices
        self.load = Load(self._stage.engine)
        self.identity: Identity = runtime.identity(checkpoint, device, self._stage.dtype)
        if voices.builtin is not None:
            self._stage.warm_up(voices.builtin)
        self._device = device
        self._tracer = Tracer("t3", settings.traces)
        metrics = StageMetrics("t3", self._readings, time.monotonic() - begin)
        self._reporting = asyncio.ensure_future(metrics.run())

    async def speak(
        self, request: SpeechRequest, sizes: tuple[int, ...], spoken: tuple[int, ...] = (), slack_s: float = 0.0
    ) -> AsyncGenerator[TokenChunk, None]:
        """Speak one piece of text, or go on after what was spoken of it elsewhere; tokens come in the sizes that S3Gen
        wants, the last one repeating. `slack_s`: how long its listener has still to play.

        Raises InvalidRequest, UnknownVoice, Overloaded, EngineDead.
        """
        voice = await self._voices.get(request.voice)
        stream = self._stage.speak(request.text, voice, request.sampling, request.language, spoken, slack_s)
        span = self._tracer.begin("t3.speak", request.traceparent, spoken_before=len(spoken))
        made = 0
        try:
            for size in chain(sizes, repeat(sizes[-1])):
                tokens, final = await stream.aread(size)
                if not made:
                    span.event("first tokens")
                made += len(tokens)
                yield TokenChunk(tuple(tokens), final, stream.begun(len(tokens)))
                if final:
                    return
        finally:
            stream.close()
            span.end(tokens=made)

    def live(self) -> dict[str, int]:
        """Requests at work and waiting."""
        return {"running": self._stage.engine.running, "waiting": self._stage.engine.waiting}

    def _readings(self) -> Readings:
        own = {"voices_cached": float(len(self._voices))}
        return {**t3_readings(self._stage.engine), **device_readings(self._device), **own}

    def check_health(self) -> None:
        """Raises EngineDead."""
        self._stage.engine.check_alive()
