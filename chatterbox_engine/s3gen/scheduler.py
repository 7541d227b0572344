"""Which streams' chunks go into the next call of S3Gen: earliest deadline first. Holds no tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatterbox_engine.s3gen.stream import Chunk, SpeechStream


@dataclass(frozen=True, slots=True)
class Work:
    """A stream and its chunk, with what decides whether it fits into a call with others."""

    stream: SpeechStream
    chunk: Chunk
    tokens: int
    """What it puts into the flow's call."""
    prompt: int
    """Tokens of the voice's prompt."""


def ready(
    streams: Sequence[SpeechStream], now: float, length: Callable[[SpeechStream, Chunk], int], queue_chunks: int
) -> list[Work]:
    """Streams that have a chunk to make and a listener who is not yet far behind.

    `length` tells how many tokens a chunk puts into the flow's call.
    """
    work = []
    for stream in streams:
        if stream.audio.full(queue_chunks) or stream.ahead(now):
            continue
        chunk = stream.next_chunk()
        if chunk is not None:
            work.append(Work(stream, chunk, length(stream, chunk), stream.voice.prompt.shape[1]))
    return work


def batch(work: Sequence[Work], max_batch: int, fits: Callable[[Work, Work], bool]) -> list[Work]:
    """The call to make now: whoever runs dry first, and those of the others that fit beside, soonest first.

    `fits` tells whether one may go into the call that another leads. A chunk without a token makes no sound, and goes
    by itself.
    """
    ordered = sorted(work, key=lambda item: item.stream.due)
    first = ordered[0]
    if not first.chunk.piece.tokens:
        return [first]
    return [item for item in ordered if item.chunk.piece.tokens and fits(item, first)][:max_batch]
