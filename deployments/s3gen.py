"""The S3Gen deployment: owns an utterance from its text to its audio, and pulls tokens from T3, wherever that is."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.errors import EngineDead, Overloaded, SpeechFailed
from chatterbox_engine.metrics import Readings
from chatterbox_engine.readings import device_readings, s3gen_readings
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.stages import S3GenStage
from chatterbox_engine.text import split
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, Interrupted, Progress, SpeechRequest, TokenChunk
from deployments.faults import AGAIN_S, GONE, LIVES, Stream, streams
from deployments.identity import Identity
from deployments.load import Load
from deployments.metrics import Reopenings, StageMetrics
from deployments.runtime import Runtime
from deployments.settings import ServiceSettings
from deployments.talker import Talker
from deployments.tracing import Tracer
from deployments.voice_cache import VoiceCache
from deployments.watchdog import watch

logger = logging.getLogger("ray.serve")


@serve.deployment(
    max_ongoing_requests=10_000, health_check_period_s=2, health_check_timeout_s=3, graceful_shutdown_timeout_s=120
)
class S3Gen:
    """Utterances to audio. The replica that serves a stream owns that stream's whole state."""

    def __init__(
        self, settings: ServiceSettings, runtime: Runtime, voices: DeploymentHandle, t3: DeploymentHandle | None
    ) -> None:
        """`t3`: None where this replica has a T3 of its own."""
        begin = time.monotonic()
        checkpoint, self._device = runtime.enter("s3gen", settings)
        device = self._device
        self._stage = S3GenStage(checkpoint, settings.engine_config(), device)
        self._load = Load(self._stage.engine)
        self._voices = VoiceCache(checkpoint, voices)
        self._talker = None if t3 else Talker(settings, runtime, checkpoint, device, self._voices)
        self._tokens = partial(Stream, t3, "speak") if t3 else self._own_tokens
        self._piece_characters = checkpoint.spec.piece_characters
        self._identity = runtime.identity(checkpoint, device, self._stage.dtype)
        if self._voices.builtin is not None:
            self._stage.warm_up(self._voices.builtin)
        self._reopenings = Reopenings("t3")
        self._tracer = Tracer("s3gen", settings.traces)
        metrics = StageMetrics("s3gen", self._readings, time.monotonic() - begin)
        self._reporting = asyncio.ensure_future(metrics.run())
        watch(self.check_health)

    @streams
    async def speak(self, request: SpeechRequest, interrupted: Interrupted | None = None) -> AsyncIterator[AudioChunk]:
        """Speak a text of any length; the last chunk is marked final. `interrupted`: what another replica began, whose
        listener hears the rest.

        Raises InvalidRequest, UnknownVoice, Overloaded, SpeechFailed, EngineDead, or what ended T3's stream.
        """
        voice = await self._voices.get(request.voice)
        stream = self._stage.open(
            voice, paced=request.paced, speed=request.speed, goes_on=request.goes_on, interrupted=interrupted
        )
        span = self._tracer.begin("s3gen.speak", request.traceparent)
        begun = interrupted.progress if interrupted else None
        feeding = asyncio.create_task(self._feed(stream, replace(request, traceparent=span.traceparent), begun))
        try:
            final, heard = False, interrupted.samples if interrupted else 0
            while not final:
                chunks, final = await stream.audio.aread()
                samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
                heard += len(samples)
                words = stream.words()
                yield AudioChunk(samples, final, words, None if final else stream.progress(heard))
        finally:
            stream.audio.close()
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding
            span.end(
                audio_s=stream.samples / SAMPLE_RATE, first_tokens_s=stream.fed - stream.opened, stalls=stream.stalls
            )

    async def _feed(self, stream: SpeechStream, request: SpeechRequest, begun: Progress | None) -> None:
        """Have T3 speak the pieces of the text, one after the other, and hand their tokens to S3Gen. `begun`: from
        that piece on."""
        try:
            first = begun.piece if begun else 0
            pieces = split(request.text, self._piece_characters, request.language)
            for index, piece in enumerate(pieces[first:], first):
                seed = derive_seed(request.sampling.seed, index)
                sizes = stream.begin_piece(seed, piece.pause_s)
                sampling = request.sampling.model_copy(update={"seed": seed})
                asked = replace(request, text=piece.text, sampling=sampling)
                await self._speak_piece(stream, asked, sizes, begun if index == first else None)
            stream.finish()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            stream.audio.fail(error)

    async def _speak_piece(
        self, stream: SpeechStream, request: SpeechRequest, sizes: tuple[int, ...], begun: Progress | None = None
    ) -> None:
        """Have T3 speak a piece, or what is missing of one that was `begun`.

        Where its replica dies another one goes on, or the same when it is back, after the tokens that have come; so
        also where it has no room in the middle of what is being heard.

        Raises SpeechFailed where that does not help, or what ended T3's stream.
        """
        spoken: list[int] = []
        known = 0  # words that have begun; a T3 that goes on for another names those again
        lives = LIVES
        if begun is not None and (begun.tokens or begun.complete):
            stream.feed(begun.tokens, final=begun.complete, words=begun.words)
            if begun.complete:
                return
            spoken, known = list(begun.tokens), len(begun.words)
        while True:
            named = 0
            tokens = self._tokens(request, sizes, tuple(spoken), stream.slack_s)
            try:
                async for chunk in tokens:
                    stream.feed(chunk.tokens, final=chunk.final, words=chunk.words[max(0, known - named) :])
                    named += len(chunk.words)
                    known = max(known, named)
                    spoken.extend(chunk.tokens)
                    sizes = sizes[1:] or sizes
                    if chunk.final:
                        return
                raise EngineDead("T3's stream broke off.")
            except (*GONE, Overloaded) as error:
                lives -= 1
                if isinstance(error, Overloaded) and not (lives and stream.playing):
                    raise
                if not lives:
                    raise SpeechFailed(f"T3 broke off {LIVES} times in one piece of text") from error
                logger.warning("T3 broke off after %d tokens; another replica goes on.", len(spoken))
                self._reopenings.count()
                await asyncio.sleep(AGAIN_S)
            finally:
                await tokens.aclose()

    def _own_tokens(
        self, request: SpeechRequest, sizes: tuple[int, ...], spoken: tuple[int, ...], slack_s: float
    ) -> AsyncGenerator[TokenChunk, None]:
        assert self._talker is not None
        return self._talker.speak(request, sizes, spoken, slack_s)

    def _readings(self) -> Readings:
        own = {"voices_cached": float(len(self._voices))}
        return {**s3gen_readings(self._stage.engine), **device_readings(self._device), **own}

    async def identities(self) -> dict[str, Identity]:
        """Of the stages that are here. Answers once the replica is ready."""
        own = {"s3gen": self._identity}
        return own if self._talker is None else {**own, "t3": self._talker.identity}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For deployments/scaling.py. Of a T3 that is here, how long its queue is: what it speaks, S3Gen counts."""
        own = self._load.figures()
        return own if self._talker is None else {**own, "wait_s": self._talker.load.figures()["wait_s"]}

    async def record_routing_stats(self) -> dict[str, Any]:
        """For deployments/routing.py."""
        return {**self._voices.told(), **self._load.seat()}

    async def turned_away(self, streams: int) -> None:
        """See Load.turned_away."""
        self._load.turned_away(streams)

    async def live(self) -> dict[str, dict[str, int]]:
        """Utterances at work, and tasks of the event loop."""
        own = {"s3gen": {"running": self._stage.engine.running, "tasks": len(asyncio.all_tasks())}}
        return own if self._talker is None else {**own, "t3": {**self._talker.live(), "tasks": 0}}

    def check_health(self) -> None:
        self._stage.engine.check_alive()
        if self._talker is not None:
            self._talker.check_health()
