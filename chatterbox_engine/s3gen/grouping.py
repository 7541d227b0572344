"""Streams whose next call has one shape run as one: what every vocoder's way over growing mels shares."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor


class Streamed(Protocol):
    """One utterance on its way."""

    finished: bool


Stream = TypeVar("Stream", bound=Streamed)
Plan = TypeVar("Plan", bound=Hashable)


def advance_grouped(
    streams: Sequence[Stream],
    mels: Sequence[Tensor],
    final: Sequence[bool],
    plan_of: Callable[[Stream, int, bool], Plan],
    run: Callable[[Plan, list[Stream], list[Tensor]], Tensor],
) -> list[Tensor]:
    """Take in new mel frames and give out the samples that they settle; streams of one plan share a call.

    Args:
        streams: one for each utterance, at most once a call; they are changed in place.
        mels: new frames (mel_bins, n) of each, n >= 0.
        final: whether each utterance ends here; then all its samples come out, and it takes no more.
        plan_of: what a stream needs of the call, from the number of its new frames and whether they are its last.
        run: one call for streams of one plan: moves them on and returns their new samples (G, N).

    Returns:
        The new samples (n,) of each stream, n >= 0, float32.

    Raises:
        ValueError: a stream was finished before; no stream is changed then.
    """
    if any(stream.finished for stream in streams):
        raise ValueError("a finished stream takes no more frames; open a new one")
    groups: defaultdict[Plan, list[int]] = defaultdict(list)
    for index, (stream, mel, last) in enumerate(zip(streams, mels, final, strict=True)):
        groups[plan_of(stream, mel.shape[1], last)].append(index)
        stream.finished = last
    samples: dict[int, Tensor] = {}
    for plan, members in groups.items():
        made = run(plan, [streams[i] for i in members], [mels[i] for i in members])
        samples.update(zip(members, made, strict=True))
    return [samples[index] for index in range(len(streams))]
