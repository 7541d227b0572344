"""Which streams' chunks go into the next call of S3Gen: by when listeners run dry. Holds no tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from chatterbox_engine.s3gen.stream import Chunk, SpeechStream

_LOOKED_AT = 256
"""Of the streams with work, those that run dry soonest: what the others could add to a call is not worth the time."""


@dataclass(frozen=True, slots=True)
class Work:
    """A stream and its chunk, with what decides whether it fits into a call with others."""

    stream: SpeechStream
    chunk: Chunk
    tokens: int
    """What it puts into the flow's call."""
    prompt: int
    """Tokens of the voice's prompt."""


LONGEST_S = 0.25
"""Of a call that could be split: a first chunk that comes meanwhile waits for its end."""
MARGIN_S = 0.4
"""Kept before a listener runs dry: first chunks may come meanwhile, and go before."""


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


def batch(
    work: Sequence[Work],
    now: float,
    max_batch: int,
    fits: Callable[[Work, Work], bool],
    seconds: Callable[[int], float],
) -> tuple[list[Work], float]:
    """The call to make now, and the seconds by which all calls could have been put off before a listener runs dry.

    First chunks come first, then whoever runs dry soonest, with those of the others that fit beside, soonest first.
    But a call that makes more speech in its time goes before, as long as every listener, in the order in which they run
    dry, would still be served in time after it. A chunk without a token makes no sound, and goes by itself.

    Args:
        work: at least one.
        fits: whether one may go into the call that another leads.
        seconds: what a call of so many tokens, padding included, is expected to take.
    """
    ordered = sorted(work, key=lambda item: item.stream.due)[:_LOOKED_AT]
    if not ordered[0].chunk.piece.tokens:
        return ordered[:1], float("inf")
    spoken = [item for item in ordered if item.chunk.piece.tokens]
    longest_s = max(LONGEST_S, 2 * seconds(spoken[0].tokens)) if spoken[0].stream.paced else float("inf")
    groups = _grouped(spoken, max_batch, fits, lambda tokens: seconds(tokens) <= longest_s)
    taken = [seconds(len(group) * max(item.tokens for item in group)) for group in groups]
    ends = list(accumulate(taken, initial=now))[1:]
    spare = [_due(group) - end for group, end in zip(groups, ends, strict=True)]
    before = [0.0, *accumulate(spare, min)]  # of the calls before each
    speed = [_new_tokens(group) / max(time, 1e-9) for group, time in zip(groups, taken, strict=True)]
    begun = groups[0][0].stream.playing  # a first chunk is not put off
    eligible = [i for i in range(1, len(groups)) if begun and taken[i] + MARGIN_S <= before[i]]
    return groups[max((0, *eligible), key=lambda index: speed[index])], min(spare)


def _grouped(
    ordered: Sequence[Work],
    max_batch: int,
    fits: Callable[[Work, Work], bool],
    short: Callable[[int], bool],
) -> list[list[Work]]:
    """Calls that take all of the work, each led by whoever of it runs dry first, and none too long for `short`."""
    groups: list[list[Work]] = []

    def room(group: list[Work], item: Work) -> bool:
        tokens = (len(group) + 1) * max(own.tokens for own in (item, *group))
        return len(group) < max_batch and fits(item, group[0]) and short(tokens)

    for item in ordered:
        group = next((group for group in groups if room(group, item)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def _due(group: Sequence[Work]) -> float:
    """When the first of its listeners runs dry; never, where none has begun to listen."""
    return min((item.stream.due for item in group if item.stream.playing), default=float("inf"))


def _new_tokens(group: Sequence[Work]) -> int:
    return sum(item.chunk.end - item.chunk.piece.done for item in group)
