"""Which streams' chunks go into the next call of S3Gen: earliest deadline first. Holds no tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatterbox_engine.s3gen.stream import Chunk, SpeechStream

_MOST_PADDING = 0.125
"""Chunks whose windows differ by no more than this share of the longest go into one call, the shorter ones padded."""


@dataclass(frozen=True, slots=True)
class Work:
    """A stream and its chunk, with what decides whether it fits into a call with others."""

    stream: SpeechStream
    chunk: Chunk
    tokens: int
    """What it puts into the flow's call."""
    prompt: int
    """Tokens of the voice's prompt."""

    def fits(self, first: "Work") -> bool:
        """May run in the call that `first` leads."""
        longest = max(self.tokens, first.tokens)
        return (
            self.chunk.final == first.chunk.final
            and self.prompt == first.prompt
            and bool(self.chunk.piece.tokens) == bool(first.chunk.piece.tokens)
            and abs(self.tokens - first.tokens) <= _MOST_PADDING * longest
        )


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


def batch(work: Sequence[Work], max_batch: int) -> list[Work]:
    """The call to make now: whoever runs dry first, and those of the others that fit beside, soonest first."""
    ordered = sorted(work, key=lambda item: item.stream.due)
    return [item for item in ordered if item.fits(ordered[0])][:max_batch]
