"""The S3Gen deployment: owns an utterance from its text to its audio, and pulls tokens from T3."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.accel.noise import derive_seed
from chatterbox_engine.errors import EngineDead
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.stages import S3GenStage
from chatterbox_engine.text import split
from chatterbox_engine.types import AudioChunk, SpeechRequest
from deployments.faults import Stream, streams
from deployments.identity import Identity, Runtime
from deployments.metrics import StageMetrics
from deployments.settings import ServiceSettings
from deployments.voice_cache import VoiceCache


@serve.deployment(max_ongoing_requests=10_000, health_check_period_s=2, graceful_shutdown_timeout_s=120)
class S3Gen:
    """Utterances to audio. The replica that serves a stream owns that stream's whole state."""

    def __init__(
        self, settings: ServiceSettings, runtime: Runtime, voices: DeploymentHandle, t3: DeploymentHandle
    ) -> None:
        checkpoint, device = runtime.enter("s3gen", settings)
        self._stage = S3GenStage(checkpoint, settings.engine_config(), device)
        self._voices = VoiceCache(checkpoint, voices)
        self._t3 = t3
        self._piece_characters = checkpoint.spec.piece_characters
        self._identity = runtime.identity(checkpoint, device, self._stage.dtype)
        if self._voices.builtin is not None:
            self._stage.warm_up(self._voices.builtin)
        self._reporting = asyncio.ensure_future(StageMetrics("s3gen").run(self._stage.engine))

    @streams
    async def speak(self, request: SpeechRequest) -> AsyncIterator[AudioChunk]:
        """Speak a text of any length; the last chunk is marked final.

        Raises InvalidRequest, UnknownVoice, Overloaded, EngineDead, or what ended T3's stream.
        """
        stream = self._stage.open(await self._voices.get(request.voice))
        feeding = asyncio.create_task(self._feed(stream, request))
        try:
            final = False
            while not final:
                chunks, final = await stream.audio.aread()
                yield AudioChunk(np.concatenate(chunks) if chunks else np.zeros(0, np.float32), final)
        finally:
            stream.audio.close()
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding

    async def _feed(self, stream: SpeechStream, request: SpeechRequest) -> None:
        """Have T3 speak the pieces of the text, one after the other, and hand their tokens to S3Gen."""
        try:
            for index, piece in enumerate(split(request.text, self._piece_characters, request.language)):
                seed = derive_seed(request.sampling.seed, index)
                sizes = stream.begin_piece(seed, piece.pause_s)
                sampling = request.sampling.model_copy(update={"seed": seed})
                tokens = Stream(self._t3, "speak", replace(request, text=piece.text, sampling=sampling), sizes)
                final = False
                try:
                    async for chunk in tokens:
                        final = chunk.final
                        stream.feed(chunk.tokens, final=final)
                finally:
                    tokens.cancel()
                if not final:
                    raise EngineDead("T3's stream broke off.")
            stream.finish()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            stream.audio.fail(error)

    async def identity(self) -> Identity:
        """Answers once the replica is ready."""
        return self._identity

    async def live(self) -> dict[str, int]:
        """Utterances at work, and tasks of the event loop."""
        return {"running": self._stage.engine.running, "tasks": len(asyncio.all_tasks())}

    def check_health(self) -> None:
        self._stage.engine.check_alive()
