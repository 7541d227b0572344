"""HTTP routes."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, Response, Security, UploadFile, WebSocket
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle

from chatterbox_engine import __version__
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.text import validate
from chatterbox_engine.types import DEFAULT_VOICE, AudioChunk, SpeechRequest
from deployments import page
from deployments.admission import Gate, Ticket
from deployments.answers import REFUSALS, AudioResponse, UnknownModel, answer, install, outcome_of
from deployments.bodies import BodyLimit
from deployments.caller import Caller
from deployments.conversation import Conversation
from deployments.downloads import FILE, file_answer
from deployments.encoding import CONTENT, Telling
from deployments.faults import Stream, ask
from deployments.fleet import Fleet
from deployments.guard import Door, Guard
from deployments.identity import Identity
from deployments.metrics import IngressMetrics, Reopenings
from deployments.objects import Deleted, Health, JobList, JobObject, Models, VoiceList, VoiceObject
from deployments.requests import JobBody, SpeechBody, Spoken, VoiceChange
from deployments.settings import ServiceSettings, Stage
from deployments.speech import Speech
from deployments.tracing import Tracer
from deployments.watchdog import watch

logger = logging.getLogger("ray.serve")
api = FastAPI(title="Chatterbox, served", redoc_url=None, generate_unique_id_function=lambda route: route.name)
install(api)
api.add_middleware(BodyLimit)
api.add_middleware(Guard)
api.include_router(page.router)

_OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Names that OpenAI's clients send by default; they mean the model that is served."""
_KEYED: dict[str, Any] = {
    "dependencies": [Security(HTTPBearer(auto_error=False, description="Where the service has keys."))],
    "openapi_extra": {"security": [{}]},  # and where it has none
    "responses": REFUSALS,
    "response_model_exclude_unset": True,
}
"""For the OpenAPI document; the door has asked already."""
_HEALTH_S = 2.0
_STRETCHING = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers by which a client could hold on to a place; Ray Serve would honour them."""


def _check_model(model: str | None, served: Identity) -> None:
    """Raises UnknownModel."""
    if model is not None and model not in (*_OPENAI_MODELS, served.model, served.spec.name, served.spec.family):
        raise UnknownModel(model, served.model)


@serve.deployment(
    max_ongoing_requests=10_000, health_check_period_s=2, health_check_timeout_s=3, graceful_shutdown_timeout_s=120
)
@serve.ingress(api)
class Ingress:
    """The service's front. Admission for both stages happens here, once."""

    def __init__(
        self,
        settings: ServiceSettings,
        voices: DeploymentHandle,
        s3gen: DeploymentHandle,
        t3: DeploymentHandle | None,
        jobs: DeploymentHandle,
    ) -> None:
        """`t3`: None where S3Gen's replicas have it."""
        self.door = Door(settings)
        self._settings = settings
        self._voices = voices
        self._s3gen = s3gen
        self._jobs = jobs
        self._handles: dict[Stage, DeploymentHandle] = {"s3gen": s3gen} if t3 is None else {"t3": t3, "s3gen": s3gen}
        self._metrics = IngressMetrics()
        self._reopenings = Reopenings("s3gen")
        self._reporting = asyncio.ensure_future(self._metrics.run())
        places = settings.engine_config().s3gen.max_streams * max(1, settings.s3gen_replicas)
        self._gate = Gate(places, self._metrics, Tracer("ingress", settings.traces))
        self._fleet = Fleet(settings, self._handles, self._gate)
        self._identities: dict[str, Identity] = {}
        self._known: list[DeploymentHandle] = []
        """Those that have said what they run."""
        watch()

    @api.post(
        "/v1/audio/speech", response_class=Response, **_KEYED | {"responses": {200: {"content": CONTENT}, **REFUSALS}}
    )
    async def speech(self, body: SpeechBody, request: Request) -> Response:
        """Speak a text. The body streams as it is generated, unless `stream` is false."""
        begin = time.monotonic()
        for header in _STRETCHING:
            if header in request.headers:
                raise InvalidRequest(f"The header {header} is not allowed.", header)
        text = validate(body.input, self._settings.max_characters)
        events = body.stream_format == "sse"
        if body.word_timings and not events:
            raise InvalidRequest("Word timings are told in events: set stream_format to sse.", "word_timings")
        if events and not body.stream:
            raise InvalidRequest("Events are a stream: leave stream_format, or do not set stream to false.", "stream")
        caller: Caller = request.state.caller
        asked = replace(await self._prepare(caller, body), text=text, speed=body.speed, paced=body.stream)
        ticket = self._gate.enter(caller, request.headers.get("traceparent"))
        ticket.about = self._about(asked)
        asked = replace(asked, traceparent=ticket.traceparent)
        chunks = self._speak(asked)
        try:
            first = await anext(chunks)  # errors come up here, while there is still a status to give
        except BaseException as error:
            ticket.end(*outcome_of(error))
            chunks.cancel()
            raise
        if body.stream:  # a file is made behind those who listen
            self._metrics.first_audio(time.monotonic() - begin)
        told = Telling(
            body.response_format, body.speed, text if events else None, words=body.word_timings, whole=not body.stream
        )
        parts = self._audio(told, first, chunks, ticket)
        headers = {"x-seed": str(asked.sampling.seed), "cache-control": "no-store"}
        if not body.stream:
            return Response(b"".join([part async for part in parts]), media_type=told.media_type, headers=headers)
        stall_s = self._settings.client_stall_s
        return AudioResponse(parts, stall_s=stall_s, media_type=told.media_type, headers=headers)

    @api.websocket("/v1/audio/speech/ws")
    async def converse(self, socket: WebSocket) -> None:
        """Text in as it is written, audio out as soon as a clause can be spoken; see deployments/conversation.py."""
        limit = self._settings.max_characters
        caller: Caller = socket.state.caller
        prepare = partial(self._prepare, caller)
        enter = partial(self._gate.enter, caller, socket.headers.get("traceparent"))
        await Conversation(socket, prepare, enter, self._speak, limit, self._about, self._metrics.first_audio).run()

    def _speak(self, asked: SpeechRequest) -> Speech:
        return Speech(self._s3gen, asked, self._reopenings.count)

    async def _prepare(self, caller: Caller, body: Spoken) -> SpeechRequest:
        """A request without its text yet, at its own speed, for a model that is awake. Raises InvalidRequest,
        UnknownVoice, ModelUnavailable. Who gets no further is counted here, the others as they leave the gate."""
        try:
            return await self._found(caller, body)
        except BaseException as error:
            self._metrics.ended(*outcome_of(error))
            raise

    async def _found(self, caller: Caller, body: Spoken) -> SpeechRequest:
        """The voice and the model that are asked for."""
        await self._fleet.awake()
        served = (await self._identify())["t3"]
        _check_model(body.model, served)
        sampling, language = body.sampling(served.spec), served.spec.language_for(body.language)
        voice = body.voice
        if (voice, self._settings.default_voice) != (DEFAULT_VOICE, DEFAULT_VOICE):
            voice = await ask(self._voices, "resolve", voice, caller.shelf)
        return SpeechRequest("", voice, sampling, language)

    def _about(self, asked: SpeechRequest) -> dict[str, Any]:
        """What the log says of a request."""
        told = {"voice": asked.voice, "language": asked.language, "characters": len(asked.text)}
        return {**told, "text": asked.text} if self._settings.log_texts else told

    async def _audio(
        self, told: Telling, first: AudioChunk, chunks: Speech, ticket: Ticket
    ) -> AsyncGenerator[bytes, None]:
        """The response's bytes. Whatever ends it early cancels back along the chain and frees the places."""
        outcome, broke = "cancelled", None
        try:
            chunk = first
            while True:
                ticket.heard(len(chunk.samples))
                yield told.tell(chunk)
                if chunk.final:
                    break
                chunk = await anext(chunks)
            outcome = "ok"
        except Exception as error:
            outcome, broke = "failed", type(error).__name__
            raise  # so that the connection is cut: the client must not take a part for the whole
        finally:
            ticket.end(outcome, broke)
            chunks.cancel()

    @api.get("/v1/models", response_model=Models, **_KEYED)
    async def models(self) -> dict[str, Any]:
        """The model that is served: what requests may set and what it takes where they do not, and what it runs on."""
        t3 = (await self._identify())["t3"]
        spec = t3.spec
        model = {"id": t3.model, "object": "model", "created": 0, "owned_by": "resemble-ai"}
        told = {"family": spec.family, "note": spec.note, "languages": spec.languages, "language": spec.language}
        settings = {"defaults": spec.defaults, "lacking": spec.lacking, "clip": spec.clip.model_dump()}
        return {"object": "list", "data": [{**model, **told, **settings, "stages": self._stages()}]}

    @api.get("/v1/voices", response_model=VoiceList, **_KEYED)
    async def voices(self, request: Request) -> dict[str, Any]:
        """The voices that requests with this key may name."""
        return {"object": "list", "data": await ask(self._voices, "catalogue", request.state.caller.shelf)}

    @api.post("/v1/voices", status_code=201, response_model=VoiceObject, **_KEYED)
    async def add_voice(
        self,
        request: Request,
        file: Annotated[UploadFile, File(json_schema_extra={"format": "binary"})],
        name: Annotated[str, Form(min_length=1, max_length=64)],
        description: Annotated[str, Form(max_length=500)] = "",
        consent: Annotated[bool, Form(description="The speaker agreed to it.")] = False,
    ) -> dict[str, Any]:
        """Make a voice from a clip (wav, flac, mp3, ogg, m4a or webm); GET /v1/models tells how long it must be."""
        data = await file.read(self._settings.max_upload_bytes + 1)
        return await ask(self._voices, "add", data, name, request.state.caller.shelf, description, consent)

    @api.get("/v1/voices/{voice_id}", response_model=VoiceObject, **_KEYED)
    async def voice(self, request: Request, voice_id: str) -> dict[str, Any]:
        return await ask(self._voices, "describe", voice_id, request.state.caller.shelf)

    @api.patch("/v1/voices/{voice_id}", response_model=VoiceObject, **_KEYED)
    async def change_voice(self, request: Request, voice_id: str, body: VoiceChange) -> dict[str, Any]:
        """Give a voice another name or description."""
        shelf = request.state.caller.shelf
        return await ask(self._voices, "change", voice_id, shelf, body.name, body.description)

    @api.delete("/v1/voices/{voice_id}", response_model=Deleted, **_KEYED)
    async def delete_voice(self, request: Request, voice_id: str) -> dict[str, Any]:
        await ask(self._voices, "delete", voice_id, request.state.caller.shelf)
        return {"id": voice_id, "object": "voice", "deleted": True}

    @api.post("/v1/audio/jobs", status_code=202, response_model=JobObject, **_KEYED)
    async def add_job(self, request: Request, body: JobBody) -> dict[str, Any]:
        """Have a long text spoken, a book's too, beside live traffic; its Markdown headings begin chapters."""
        text = validate(body.input, self._settings.max_job_characters)
        caller: Caller = request.state.caller
        asked = replace(await self._found(caller, body), text=text)
        served = (await self._identify())["t3"].spec
        form = body.response_format
        return await ask(self._jobs, "add", caller.name, body.title, form, asked, served.piece_characters)

    @api.get("/v1/audio/jobs", response_model=JobList, **_KEYED)
    async def jobs(self, request: Request) -> dict[str, Any]:
        """This key's jobs, oldest first."""
        return {"object": "list", "data": await ask(self._jobs, "catalogue", request.state.caller.name)}

    @api.get("/v1/audio/jobs/{job_id}", response_model=JobObject, **_KEYED)
    async def job(self, request: Request, job_id: str) -> dict[str, Any]:
        """How far it is, and where its chapters begin."""
        return await ask(self._jobs, "describe", job_id, request.state.caller.name)

    @api.post("/v1/audio/jobs/{job_id}/{change}", response_model=JobObject, **_KEYED)
    async def change_job(
        self, request: Request, job_id: str, change: Literal["pause", "resume", "cancel"]
    ) -> dict[str, Any]:
        """Pause a job, go on with one that is paused or has failed, or end it and let go of what was said."""
        return await ask(self._jobs, change, job_id, request.state.caller.name)

    @api.get("/v1/audio/jobs/{job_id}/file", response_class=Response, **_KEYED | {"responses": FILE})
    async def job_file(self, request: Request, job_id: str) -> Response:
        """The audio of a job that is done; parts of it by `Range`."""
        owner = request.state.caller.name
        name, media_type, size = await ask(self._jobs, "file", job_id, owner)
        return file_answer(request, name, media_type, size, partial(Stream, self._jobs, "read", job_id, owner))

    @api.delete("/v1/audio/jobs/{job_id}", response_model=Deleted, **_KEYED)
    async def delete_job(self, request: Request, job_id: str) -> dict[str, Any]:
        """With its file."""
        await ask(self._jobs, "delete", job_id, request.state.caller.name)
        return {"id": job_id, "object": "audio.job", "deleted": True}

    @api.get(
        "/health",
        responses={
            200: {"model": Health},
            503: {"description": "It is warming up, a replica is gone, or it is ending."},
        },
    )
    async def health(self) -> JSONResponse:
        """200 once every stage is warm and well, or asleep and left so; 503 before, otherwise, and while it ends."""
        if self._gate.closed:
            return JSONResponse({"status": "ending", "stages": self._stages()}, 503, {"retry-after": "5"})
        asleep = self._fleet.asleep
        live: dict[str, Any] = (
            {"ingress": self._gate.live, "asleep": asleep} if asleep else {"ingress": self._gate.live}
        )
        try:
            async with asyncio.timeout(_HEALTH_S):
                if not self._fleet.resting:
                    await self._identify()
                told = await asyncio.gather(*(ask(handle, "live") for handle in self._fleet.to_ask(self._gate.live)))
        except TimeoutError:
            return JSONResponse({"status": "starting", "stages": self._stages()}, 503, {"retry-after": "2"})
        except Exception as error:
            return answer(error)
        return JSONResponse({"status": "ok", "live": reduce(or_, told, live), "stages": self._stages()})

    async def leave(self) -> tuple[int, float]:
        """Take no stream any more. Returns how many are under way, and the seconds that they have from the first call
        on (`deployments.ending`)."""
        self._gate.closed = True
        return self._gate.live, self._settings.drain_s

    async def _identify(self) -> dict[str, Identity]:
        """What each stage runs, once it is ready."""
        for handle in self._handles.values():
            if handle not in self._known:
                self._identities |= await ask(handle, "identities")
                self._known.append(handle)
                if "t3" in self._identities:
                    model, profile = self._identities["t3"].model, self._settings.profile
                    self._metrics.build = {"version": __version__, "model": model, "profile": profile}
        return self._identities

    def _stages(self) -> dict[str, Any]:
        return {
            stage: {"model": i.model, "note": i.spec.note, "device": i.device, "dtype": i.dtype, "why": i.why}
            for stage, i in self._identities.items()
        }
