"""S3Gen reads T3: a piece that another T3 goes on with is whole, and no word of it is told twice."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from chatterbox_engine.errors import EngineDead
from chatterbox_engine.types import Begun, SamplingParams, SpeechRequest, TokenChunk
from deployments import s3gen
from deployments.s3gen import S3Gen

REQUEST = SpeechRequest("One two three.", "default", SamplingParams(), "en")
WORDS = [Begun("One", 0), Begun("two", 3), Begun("three.", 5)]


class Stream:
    """What S3Gen's stream is fed."""

    slack_s = 0.0

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.words: list[Begun] = []
        self.complete = False

    def feed(self, tokens: Any, *, final: bool, words: Any) -> None:
        self.tokens += tokens
        self.words += words
        self.complete = final


@pytest.mark.parametrize("breaks", [(), (1,), (4,), (2, 4), (1, 2, 3)])
def test_it_goes_on_where_t3_broke_off(monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...]) -> None:
    """T3 says the tokens 0..6, one a chunk, and breaks off before some of them."""
    monkeypatch.setattr(s3gen, "_AGAIN_S", 0.0)
    left = list(breaks)

    async def speak(_: Any, sizes: Any, spoken: tuple[int, ...], slack_s: float) -> AsyncGenerator[TokenChunk, None]:
        named = 0
        for token in range(len(spoken), 7):
            if left and token == left[0]:
                left.pop(0)
                raise EngineDead("gone")
            begun = tuple(word for word in WORDS[named:] if word.token <= token)
            named += len(begun)
            yield TokenChunk((token,), token == 6, begun)

    replica: Any = object.__new__(S3Gen.func_or_class)  # type: ignore[arg-type]
    replica._tokens = speak
    replica._reopenings = SimpleNamespace(count=lambda: None)
    stream: Any = Stream()
    asyncio.run(replica._speak_piece(stream, REQUEST, (1,)))
    assert stream.complete
    assert stream.tokens == list(range(7))
    assert [word.text for word in stream.words] == ["One", "two", "three."]
