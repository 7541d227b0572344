"""Vocos over a mel that grows: the samples of an offline pass, each given out once no later frame can change it.

Every call runs Vocos on a window of frames: those whose samples are new, and around them the frames on which these
samples depend. What the window's edges spoil lies outside the samples kept; at the utterance's own start and end the
window has the same edges as an offline pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from chatterbox_engine.s3gen.grouping import advance_grouped
from chatterbox_engine.s3gen.vocos import KERNEL, Vocos
from chatterbox_engine.spec import VocosSpec


@dataclass(frozen=True, slots=True)
class Context:
    """Frames of mel to each side on which a frame's samples depend."""

    left: int
    right: int
    """So many must have come after a frame before its samples are settled."""


def context(spec: VocosSpec) -> Context:
    """What the first convolution, the blocks' and the inverse STFT's overlap add up to."""
    trim = (spec.n_fft - spec.hop) // 2
    overlap = -(-trim // spec.hop)  # frame m spans the samples from m hop - trim on, n_fft of them
    edge = KERNEL // 2
    return Context(overlap + spec.layers * (KERNEL - 1 - spec.ahead) + edge, overlap + spec.layers * spec.ahead + edge)


@dataclass(slots=True)
class VocosStream:
    """One utterance on its way through Vocos. Its size is bounded by Vocos's context."""

    received: int = 0
    """Mel frames so far."""
    emitted: int = 0
    """Frames whose samples have been given out."""
    finished: bool = False
    held: Tensor | None = None
    """(mel_bins, frames) that later samples need, ending with the last frame received; None before the first."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one stream needs of a call. Streams of one plan run together. Counted in frames; starts in held frames."""

    held: int
    """Frames held, the new ones included."""
    emit_start: int
    emit_frames: int
    """Samples to give out."""
    keep_start: int
    """Where the frames start that the next call needs."""


def _plan(reach: Context, stream: VocosStream, new: int, final: bool) -> _Plan:
    start = max(0, stream.emitted - reach.left)  # of the frames held
    received = stream.received + new
    emitted = received if final else max(stream.emitted, received - reach.right)
    return _Plan(
        held=received - start,
        emit_start=stream.emitted - start,
        emit_frames=emitted - stream.emitted,
        keep_start=max(0, emitted - reach.left - start),
    )


def advance(
    vocos: Vocos, streams: Sequence[VocosStream], mels: Sequence[Tensor], final: Sequence[bool]
) -> list[Tensor]:
    """`advance_grouped` through Vocos.

    However an utterance is cut into calls, and whatever other streams share them, its samples in a row are those of
    an offline pass. A frame's samples come once `context(vocos.spec).right` frames after it are there.
    """
    return advance_grouped(streams, mels, final, partial(_plan, context(vocos.spec)), partial(_run, vocos))


def _run(vocos: Vocos, plan: _Plan, streams: list[VocosStream], mels: list[Tensor]) -> Tensor:
    """One call for streams of one plan: moves them on and returns their new samples (G, N)."""
    hop, weight = vocos.spec.hop, vocos.head.out.weight
    held = [new.to(weight) if past.held is None else torch.cat((past.held, new.to(weight)), dim=1)
            for past, new in zip(streams, mels, strict=True)]  # fmt: skip
    mel = torch.stack(held)
    samples = weight.new_empty(len(streams), 0)
    if plan.emit_frames:
        samples = vocos(mel)[:, plan.emit_start * hop : (plan.emit_start + plan.emit_frames) * hop]
    for row, stream in enumerate(streams):
        stream.received += mels[row].shape[1]
        stream.emitted += plan.emit_frames
        # Cloned, for a view would keep the group's whole window alive.
        stream.held = None if stream.finished else mel[row, :, plan.keep_start :].clone()
    return samples
