"""S3Gen reads T3: a piece that another T3 goes on with is whole, and no word of it is told twice."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from chatterbox_engine.errors import EngineDead, Overloaded, SpeechFailed
from chatterbox_engine.types import Begun, Progress, SamplingParams, SpeechRequest, TokenChunk
from deployments import s3gen
from deployments.s3gen import S3Gen

REQUEST = SpeechRequest("One two three.", "default", SamplingParams(), "en")
WORDS = [Begun("One", 0), Begun("two", 3), Begun("three.", 5)]


class Stream:
    """What S3Gen's stream is fed."""

    slack_s = 0.0

    def __init__(self, playing: bool = True) -> None:
        self.playing = playing
        self.tokens: list[int] = []
        self.words: list[Begun] = []
        self.complete = False

    def feed(self, tokens: Any, *, final: bool, words: Any) -> None:
        self.tokens += tokens
        self.words += words
        self.complete = final


def fed(
    monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...], error: Exception, playing: bool = True,
    begun: Progress | None = None,
) -> Stream:  # fmt: skip
    """By a T3 that says the tokens 0..6, one a chunk, and breaks off with `error` before some of them."""
    monkeypatch.setattr(s3gen, "AGAIN_S", 0.0)
    left = list(breaks)

    async def speak(_: Any, sizes: Any, spoken: tuple[int, ...], slack_s: float) -> AsyncGenerator[TokenChunk, None]:
        named = 0
        for token in range(len(spoken), 7):
            if left and token == left[0]:
                left.pop(0)
                raise error
            begun = tuple(word for word in WORDS[named:] if word.token <= token)
            named += len(begun)
            yield TokenChunk((token,), token == 6, begun)

    replica: Any = object.__new__(S3Gen.func_or_class)  # type: ignore[arg-type]
    replica._tokens = speak
    replica._reopenings = SimpleNamespace(count=lambda: None)
    stream: Any = Stream(playing)
    asyncio.run(replica._speak_piece(stream, REQUEST, (1,), begun))
    return stream


@pytest.mark.parametrize("error", [EngineDead("gone"), Overloaded()])
@pytest.mark.parametrize("breaks", [(), (1,), (4,), (2, 4), (1, 2, 3)])
def test_it_goes_on_where_t3_broke_off(
    monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...], error: Exception
) -> None:
    stream = fed(monkeypatch, breaks, error)
    assert stream.complete
    assert stream.tokens == list(range(7))
    assert [word.text for word in stream.words] == ["One", "two", "three."]


@pytest.mark.parametrize("said", range(8))
@pytest.mark.parametrize("breaks", [(), (5,)])
def test_it_goes_on_with_what_another_s3gen_was_told(
    monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...], said: int
) -> None:
    known = tuple(word for word in WORDS if word.token < said)
    begun = Progress(0, 0, 0, (), tuple(range(said)), said == 7, known)
    stream = fed(monkeypatch, breaks if said < 5 else (), EngineDead("gone"), begun=begun)
    assert stream.complete
    assert stream.tokens == list(range(7))
    assert stream.words == WORDS


@pytest.mark.parametrize(("breaks", "error", "playing", "told"), [
    ((1, 1, 1, 1), EngineDead("gone"), True, SpeechFailed),
    ((1, 1, 1, 1), Overloaded(), True, Overloaded),
    ((0,), Overloaded(), False, Overloaded),  # nobody hears it yet, and may be told so
    ((4,), SpeechFailed("a poisoned text"), True, SpeechFailed),  # it would fail anywhere
])  # fmt: skip
def test_it_ends_where_no_other_t3_would_help(
    monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...], error: Exception, playing: bool, told: type[Exception]
) -> None:
    with pytest.raises(told):
        fed(monkeypatch, breaks, error, playing)
