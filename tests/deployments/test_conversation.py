"""The WebSocket: text in pieces, audio back, barge-in, several utterances in one connection."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketTestSession
from websockets.sync.client import ClientConnection, connect

from chatterbox_engine.errors import EngineDead, Overloaded
from chatterbox_engine.text import normalise
from chatterbox_engine.types import AudioChunk, SamplingParams, SpeechRequest
from deployments import conversation
from deployments.admission import Gate
from deployments.conversation import Conversation
from deployments.tracing import Tracer
from tests.service import PLACES, Service

pytestmark = pytest.mark.service


class Caller:
    """A voice agent's end of the line."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def say(self, kind: str, **fields: Any) -> None:
        self.send({"type": kind, **fields})

    def send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message))

    def hear(self, until: str) -> tuple[list[dict[str, Any]], bytes]:
        """Messages up to one of a kind, and the audio between them."""
        told: list[dict[str, Any]] = []
        audio = b""
        while not told or told[-1]["type"] != until:
            message = self._socket.recv(timeout=60)
            if isinstance(message, bytes):
                audio += message
            else:
                told.append(json.loads(message))
                assert told[-1]["type"] != "error" or until == "error", told[-1]
        return told, audio


@contextlib.contextmanager
def calling(service: Service) -> Iterator[Caller]:
    with connect(f"{service.url.replace('http', 'ws')}/v1/audio/speech/ws") as socket:
        yield Caller(socket)


class _Said:
    """What one clause becomes: a chunk of audio after a while, or an error."""

    def __init__(self, request: SpeechRequest, error: Exception | None = None, after_s: float = 0.0) -> None:
        self.request = request
        self._error = error
        self._after_s = after_s

    async def __anext__(self) -> AudioChunk:
        await asyncio.sleep(self._after_s)
        if self._error is not None:
            raise self._error
        return AudioChunk(np.zeros(960, np.float32), True)

    def cancel(self) -> None: ...


@contextlib.contextmanager
def in_this_process(speak: Callable[[SpeechRequest], Any]) -> Iterator[tuple[WebSocketTestSession, Gate, list[str]]]:
    """A line without a service, the gate, and how its utterances were counted."""
    ended: list[str] = []
    counted: Any = SimpleNamespace(live=lambda _: None, ended=lambda outcome, _: ended.append(outcome))
    gate = Gate(8, counted, Tracer("ingress", None))
    api = FastAPI()

    async def prepare(_: Any) -> SpeechRequest:
        return SpeechRequest("", "default", SamplingParams())

    @api.websocket("/")
    async def converse(socket: WebSocket) -> None:
        await Conversation(socket, prepare, gate.enter, speak, 4096, lambda _: {}, lambda _: None).run()

    with TestClient(api).websocket_connect("/") as line:
        yield line, gate, ended


def last_word(line: WebSocketTestSession) -> dict[str, Any]:
    """The message that ends an utterance."""
    while True:
        if text := line.receive().get("text"):
            told: dict[str, Any] = json.loads(text)
            if told["type"] in ("done", "error", "cancelled"):
                return told


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "ok"), (Overloaded(), "overloaded"), (EngineDead("It ended."), "failed")]
)
def test_only_the_first_clause_asks_to_be_let_in(error: Exception | None, outcome: str) -> None:
    """The second goes on for a listener who is there, and whatever ends it is counted so."""
    said: list[_Said] = []

    def speak(request: SpeechRequest) -> _Said:
        said.append(_Said(request, error if request.goes_on else None))
        return said[-1]

    with in_this_process(speak) as (line, gate, ended):
        line.send_json({"type": "start"})
        line.send_json({"type": "text", "text": "This is the first of them. And this is the second one. "})
        line.send_json({"type": "end"})
        assert last_word(line)["type"] == ("error" if error else "done")
        assert [each.request.goes_on for each in said] == [False, True]
        assert ended == [outcome]
        assert gate.live == 0


def test_a_line_hears_its_client_however_much_waits_to_be_spoken() -> None:
    with in_this_process(lambda request: _Said(request, after_s=3600.0)) as (line, gate, ended):
        line.send_json({"type": "start"})
        for _ in range(1500):
            line.send_json({"type": "text", "text": "a"})
            line.send_json({"type": "flush"})
        line.send_json({"type": "cancel"})
        assert last_word(line)["type"] == "cancelled"
        assert (ended, gate.live) == (["unheard"], 0)


def test_a_client_that_only_listens_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_IDLE_S", 0.05)
    with in_this_process(lambda request: _Said(request, after_s=0.5)) as (line, _, ended):
        line.send_json({"type": "start"})
        line.send_json({"type": "text", "text": "This is all there is to say."})
        line.send_json({"type": "end"})
        assert last_word(line)["type"] == "done"
        assert ended == ["ok"]
        assert line.receive() == {"type": "websocket.close", "code": 1001, "reason": ""}  # now it is


@pytest.mark.parametrize("said", ["", "This is a whole sentence. And this"])
def test_who_begins_and_says_no_more_gives_the_place_back(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_IDLE_S", 0.2)
    with in_this_process(_Said) as (line, gate, ended):
        line.send_json({"type": "start"})
        if said:
            line.send_json({"type": "text", "text": said})
        while (told := line.receive())["type"] != "websocket.close":
            pass
        assert told["code"] == 1001
    assert (ended, gate.live) == (["cancelled" if said else "unheard"], 0)


def samples(text: str) -> int:
    return round(len(normalise(text)) * 1.7) * 960


def test_clauses_are_spoken_as_they_come(service: Service) -> None:
    with calling(service) as caller:
        caller.say("start", seed=3, voice="alloy")
        (started,), _ = caller.hear("started")
        assert (started["seed"], started["sample_rate"], started["format"]) == (3, 24_000, "pcm")
        for piece in ("The first sen", "tence. And", " the second"):
            caller.say("text", text=piece)
        (first,), _ = caller.hear("clause")
        assert (first["text"], first["sample"]) == ("The first sentence.", 0)
        caller.say("text", text=" one.")
        caller.say("end")
        told, audio = caller.hear("done")
        clause, done = told
        begin = samples("The first sentence.") + 4_800  # a pause
        assert clause == {"type": "clause", "text": "And the second one.", "sample": begin}
        assert done["samples"] == begin + samples("And the second one.")
        body = {"input": "The first sentence.", "seed": 3, "response_format": "pcm"}
        alone = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60).content
        assert len(audio) == 2 * done["samples"]
        assert audio[: len(alone) // 2][:1000] == alone[:1000]
        caller.say("start", response_format="mp3", speed=1.2)  # another one, on the same line
        caller.say("text", text="Now this")
        caller.say("flush")
        caller.say("end")
        told, audio = caller.hear("done")
        assert [one["type"] for one in told] == ["started", "clause", "done"]
        assert audio[0] == 0xFF  # of an MP3 frame
    service.wait_until_idle()


def test_barge_in_is_silence_and_a_free_place(service: Service) -> None:
    with calling(service) as caller:
        for round_ in range(5):
            caller.say("start")
            caller.say("text", text="Here is a long sentence that goes on and on. " * 8)
            caller.hear("clause")
            if round_ % 2:
                time.sleep(0.3)
            caller.say("cancel")
            told, _ = caller.hear("cancelled")
            assert told[-1]["samples"] >= 0
            service.wait_until_idle()
        caller.say("cancel")  # of nothing
        caller.hear("cancelled")


def test_leaving_frees_the_place(service: Service) -> None:
    for _ in range(PLACES + 1):
        with calling(service) as caller:
            caller.say("start")
            caller.say("text", text="Here is a long sentence that goes on and on. " * 8)
            caller.hear("clause")
    service.wait_until_idle()


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"type": "text", "text": "too soon"}, "type"),
        ({"type": "end"}, "type"),
        ({"type": "sing"}, None),
        ({"text": "x"}, None),
        ({"type": "start", "voice": "nobody"}, "voice"),
        ({"type": "start", "temperature": 50}, "temperature"),
        ({"type": "start", "colour": "red"}, "colour"),
        ({"type": "start", "input": "x"}, "input"),
        ({"type": "start", "response_format": "mp4"}, None),
    ],
)
def test_what_is_wrong_is_said_and_the_line_stays(service: Service, message: dict[str, Any], param: str | None) -> None:
    with calling(service) as caller:
        caller.send(message)
        (told,), _ = caller.hear("error")
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert param is None or told["error"]["param"] == param
        caller.say("start")
        caller.say("end")
        caller.hear("done")


def test_places_are_those_of_everybody(service: Service) -> None:
    service.wait_until_idle()
    with contextlib.ExitStack() as lines:
        for _ in range(PLACES):
            caller = lines.enter_context(calling(service))
            caller.say("start")
            caller.hear("started")
        refused = lines.enter_context(calling(service))
        refused.say("start")
        (told,), _ = refused.hear("error")
        assert told["error"]["type"] == "rate_limit_error"
    service.wait_until_idle()
