"""WS /v1/audio/speech/ws: text in as a language model writes it, audio out as soon as a clause can be spoken.

A connection carries utterances one after the other. The client sends JSON: `start` with the fields of SpeechBody but
`input`, then `text` as often as it likes, `flush` to have spoken what has not ended yet, and `end`; `cancel` at any
time silences the utterance and gives its place back. The server sends JSON and, in binary frames, audio in the format
asked for: `started`, a `clause` before the audio of each, and `done` or `cancelled`; `error` where something is
refused.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.text import Clauses, validate
from chatterbox_engine.text.split import CLAUSE_PAUSE_S, SENTENCE_PAUSE_S
from chatterbox_engine.types import SAMPLE_RATE, AudioChunk, SpeechRequest
from deployments.admission import Ticket
from deployments.answers import answer, outcome_of
from deployments.encoding import Format, Telling
from deployments.guard import key_protocol
from deployments.requests import SpeechBody
from deployments.speech import Speech

_IDLE_S = 300.0
"""A connection that says nothing for so long is closed."""
_SENTENCE_ENDS = ".!?…。！？\"'”’)"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Start(_Message):
    """Begins an utterance: what SpeechBody has, but for its text."""

    model_config = ConfigDict(frozen=True, extra="allow")
    type: Literal["start"]
    response_format: Format = "pcm"


class Text(_Message):
    """Some more text."""

    type: Literal["text"]
    text: str


class Flush(_Message):
    """Speak what is there, ended or not."""

    type: Literal["flush"]


class End(_Message):
    """No more text comes."""

    type: Literal["end"]


class Cancel(_Message):
    """Be silent, and forget the rest."""

    type: Literal["cancel"]


_Sent = Annotated[Start | Text | Flush | End | Cancel, Field(discriminator="type")]
_MESSAGES: TypeAdapter[Any] = TypeAdapter(cast(Any, _Sent))  # a union is a type to pydantic

Prepare = Callable[[SpeechBody], Awaitable[SpeechRequest]]
"""A body whose text does not matter, checked -> a request to which the text is still to be added."""


class _Utterance:
    """From its start to its end: clauses that wait, and the task that speaks them."""

    def __init__(self, request: SpeechRequest, form: Format, ticket: Ticket, word_timings: bool) -> None:
        self.request = request
        self.word_timings = word_timings
        self.telling = Telling(form, request.speed, None)
        self.ticket = ticket
        self.clauses = Clauses(request.language)
        self.waiting: asyncio.Queue[str | None] = asyncio.Queue()
        """Clauses to speak, no more than an utterance has characters; None ends it."""
        self.characters = 0
        self.texts: list[str] = []
        """Its clauses."""
        self.samples = 0
        self.speaking: asyncio.Task[None] | None = None
        self.spoken = True
        """Of what has come, all; else there is something to be heard."""

    async def next(self) -> str | None:
        """The next clause, once it is there; None at the end."""
        self.spoken = self.waiting.empty()
        clause = await self.waiting.get()
        self.spoken = False
        return clause


class Conversation:
    """One connection."""

    def __init__(
        self,
        socket: WebSocket,
        prepare: Prepare,
        enter: Callable[[], Ticket],
        speak: Callable[[SpeechRequest], Speech],
        max_characters: int,
        about: Callable[[SpeechRequest], dict[str, Any]],
        first_audio: Callable[[float], None],
    ) -> None:
        """`about`: what the log says of an utterance; `first_audio`: told the seconds from a first clause to its
        sound."""
        self._socket = socket
        self._about = about
        self._first_audio = first_audio
        self._prepare = prepare
        self._enter = enter
        self._speak = speak
        self._max_characters = max_characters
        self._now: _Utterance | None = None

    async def run(self) -> None:
        """Until the client leaves."""
        await self._socket.accept(key_protocol(self._socket.scope["subprotocols"]))
        try:
            while True:
                message = await self._heard()
                try:
                    await self._take(_MESSAGES.validate_json(message))
                except ValidationError as error:
                    await self._refuse(InvalidRequest.of(error))
                except Exception as error:
                    await self._refuse(error)
        except TimeoutError:
            await self._socket.close(1001)
        except (WebSocketDisconnect, KeyError):  # KeyError: a binary frame
            pass
        finally:
            await self._silence()

    async def _heard(self) -> str:
        """The next message. Raises TimeoutError where none comes for long, and nothing is being spoken."""
        receiving = asyncio.ensure_future(self._socket.receive_text())
        try:
            while not (await asyncio.wait((receiving,), timeout=_IDLE_S))[0]:
                if self._now is None or self._now.spoken:
                    raise TimeoutError
            return await receiving
        finally:
            receiving.cancel()

    async def _take(self, message: Start | Text | Flush | End | Cancel) -> None:
        if isinstance(message, Start):
            await self._start(message)
            return
        if isinstance(message, Cancel):
            samples = await self._silence()
            await self._say("cancelled", samples=samples)
            return
        now = self._now
        if now is None:
            raise InvalidRequest("There is no utterance: send start first.", "type")
        if isinstance(message, Text):
            now.characters += len(message.text)
            if now.characters > self._max_characters:
                raise InvalidRequest(f"An utterance has at most {self._max_characters:,} characters.", "text")
            found = now.clauses.push(message.text)
        else:
            found = now.clauses.flush()
        for clause in found:
            now.waiting.put_nowait(clause)
        if isinstance(message, End):
            now.waiting.put_nowait(None)

    async def _start(self, message: Start) -> None:
        if self._now is not None:
            raise InvalidRequest("An utterance is being spoken: cancel it, or wait until it is done.", "type")
        given = {name: value for name, value in message.model_dump().items() if name != "type"}
        for name in ("input", "stream_format", "stream"):
            if name in given:
                raise InvalidRequest(f"{name} has no place here.", name)
        body = SpeechBody.model_validate({**given, "input": ""})
        request = replace(await self._prepare(body), speed=body.speed)
        ticket = self._enter()
        request = replace(request, traceparent=ticket.traceparent)
        self._now = now = _Utterance(request, message.response_format, ticket, body.word_timings)
        await self._say("started", seed=request.sampling.seed, sample_rate=SAMPLE_RATE, format=message.response_format)
        now.speaking = asyncio.create_task(self._utter(now))

    async def _utter(self, now: _Utterance) -> None:
        """Speak the clauses as they come."""
        outcome, index = "failed", 0
        broke: str | None = None
        try:
            pause = 0
            while (clause := await now.next()) is not None:
                if not any(character.isalnum() for character in clause):
                    continue  # nothing to speak, which is no mistake here
                await self._play(now, np.zeros(pause, np.float32))
                await self._say("clause", text=clause, sample=now.samples)
                now.texts.append(clause)
                await self._utter_clause(now, clause, index)
                pause = round(SAMPLE_RATE * (SENTENCE_PAUSE_S if clause[-1] in _SENTENCE_ENDS else CLAUSE_PAUSE_S))
                index += 1
            await self._send(now.telling.tell(AudioChunk(np.zeros(0, np.float32), True)))
            await self._say("done", samples=now.samples)
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except WebSocketDisconnect:
            outcome = "cancelled"
        except Exception as error:
            outcome, broke = outcome_of(error)
            await self._refuse(error)
        finally:
            now.ticket.about = self._about(replace(now.request, text=" ".join(now.texts)))
            now.ticket.end(outcome, broke)
            if self._now is now:
                self._now = None

    async def _utter_clause(self, now: _Utterance, clause: str, index: int) -> None:
        """Each clause has a seed derived from the utterance's; the first one keeps it."""
        sampling = now.request.sampling
        sampling = sampling.model_copy(update={"seed": derive_seed(sampling.seed, index)})
        text = validate(clause, self._max_characters)
        asked = None if index else time.monotonic()
        chunks = self._speak(replace(now.request, text=text, sampling=sampling, goes_on=index > 0))
        try:
            begin, final = now.samples, False
            while not final:
                chunk = await anext(chunks)
                final = chunk.final
                if asked is not None and len(chunk.samples):
                    self._first_audio(time.monotonic() - asked)
                    asked = None
                if now.word_timings:
                    for word in chunk.words:
                        await self._say("word", text=word.text, sample=begin + word.sample)
                await self._play(now, chunk.samples)
        finally:
            chunks.cancel()

    async def _play(self, now: _Utterance, samples: np.ndarray) -> None:
        now.samples += len(samples)
        now.ticket.heard(len(samples))
        await self._send(now.telling.tell(AudioChunk(samples, False)))

    async def _silence(self) -> int:
        """End what is being spoken. Returns the samples that were sent of it."""
        now, self._now = self._now, None
        if now is None:
            return 0
        if now.speaking is not None:
            now.speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await now.speaking
        now.ticket.end("cancelled")
        return now.samples

    async def _send(self, data: bytes) -> None:
        if data:
            await self._socket.send_bytes(data)

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._socket.send_text(json.dumps({"type": kind, **fields}))

    async def _refuse(self, error: Exception) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # who has left is not told
            await self._say("error", **json.loads(bytes(answer(error).body)))
