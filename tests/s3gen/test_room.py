"""Admission by memory: whoever is let in finds what its chunks keep, whoever else is there."""

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.room import Room
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.types import TOKEN_RATE, S3GenVoice

SECOND = 1_000_000
"""Bytes kept of a second."""
PROMPT_S = 2
SWITCHES = S3GenSwitches(max_streams=64, max_batch=4, chunk_schedule=(50,))


def voice(name: str) -> S3GenVoice:
    prompt = torch.zeros(1, PROMPT_S * TOKEN_RATE, dtype=torch.int64)
    return S3GenVoice(name, prompt, torch.zeros(1, 0, 80), torch.zeros(1, 192))


def opened(name: str, tokens: int) -> SpeechStream:
    stream = SpeechStream(voice(name), 0, SWITCHES.chunk_schedule, None, 30.0, None, lambda: None)
    stream.begin_piece(0, 0.0)
    stream.feed([0] * tokens, final=True)
    return stream


def used(streams: list[SpeechStream], heard: set[str]) -> int:
    """Bytes that live streams keep, and voices of which one has been heard."""
    own = sum(stream.kept_s for stream in streams if not stream.audio.closed)
    return round((own + PROMPT_S * len(heard)) * SECOND)


@given(seed=st.integers(0, 2**32), memory=st.integers(5, 400), voices=st.integers(1, 6))
def test_whoever_is_let_in_beside_others_finds_memory_to_the_end(seed: int, memory: int, voices: int) -> None:
    chance = random.Random(seed)
    whole = memory * SECOND
    live: list[SpeechStream] = []
    heard: set[str] = set()
    room = Room.of(SWITCHES, SECOND, True, lambda: whole - used(live, heard))
    beside = False
    for _ in range(120):
        name = str(chance.randrange(voices))
        if chance.random() < 0.5 and room.admits(live, voice(name)):
            beside |= bool(live)
            live.append(opened(name, chance.randint(1, 500)))
        if live:
            stream = chance.choice(live)
            chunk = stream.next_chunk()
            if chunk is None:  # it has been said whole
                live.remove(stream)
                continue
            heard.add(stream.voice.id)
            stream.commit(chunk, 0)
        if len(live) == 1:
            beside = False  # whoever is alone has what there is
        assert not beside or used(live, heard) <= whole


def test_a_large_memory_lets_many_in_and_a_small_one_one_at_a_time() -> None:
    large, small = (Room.of(SWITCHES, SECOND, True, lambda free=free: free * SECOND) for free in (10_000, 5))
    crowd = [opened("a", 500) for _ in range(60)]
    assert large.admits(crowd, voice("a"))
    assert small.admits([], voice("a"))
    assert not small.admits(crowd[:1])
    crowd[0].audio.close()
    assert small.admits(crowd[:1])  # its listener has gone


def test_what_streams_have_been_given_already_is_not_asked_for_again() -> None:
    room = Room.of(SWITCHES, SECOND, True, lambda: 50 * SECOND)
    begun, new = opened("a", 500), opened("a", 500)
    assert not room.admits([new])
    while (chunk := begun.next_chunk()) is not None and chunk.end < 500:
        begun.commit(chunk, 0)
    assert room.admits([begun])


def test_a_prompt_counts_once_for_a_voice_or_for_each_stream() -> None:
    crowd = [opened("a", 500), opened("a", 500)]

    def admits(shares: bool, free: int) -> bool:
        return Room.of(SWITCHES, SECOND, shares, lambda: free * SECOND).admits(crowd, voice("a"))

    def least(shares: bool) -> int:
        """Free seconds with which a third stream of the voice is let in."""
        return next(free for free in range(1000) if admits(shares, free))

    assert least(False) - least(True) in range(2 * PROMPT_S, 2 * PROMPT_S + 2)


def test_a_window_bounds_what_a_stream_keeps() -> None:
    free = 100 * SECOND
    whole, window = (
        Room.of(SWITCHES.model_copy(update={"context_window": seen}), SECOND, True, lambda: free) for seen in (None, 25)
    )
    assert window.most_s < whole.most_s / 5
    assert 1 < whole.places(64) < window.places(64) < 64
    assert window.places(8) == 8
    assert Room.of(SWITCHES, SECOND, True, lambda: 0).places(64) == 1
