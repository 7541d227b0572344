"""HiFT over a mel that grows: the samples of an offline pass, each given out once no later frame can change it.

Every call runs HiFT on a window of frames: those whose samples are new, and around them the frames on which these
samples depend. What the window's edges spoil lies outside the samples kept; at the utterance's own start and end the
window has the same edges as an offline pass. F0 needs frames to the right of its own, so the source is made first, as
far as F0 is settled, and carried on as samples and phase.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from chatterbox_engine.s3gen.grouping import advance_grouped
from chatterbox_engine.s3gen.hift import EDGE_KERNEL, F0_KERNEL, F0_LAYERS, HiFT
from chatterbox_engine.spec import HiFTSpec


@dataclass(frozen=True, slots=True)
class Context:
    """Frames to each side on which a frame's samples or its F0 depend."""

    left: int
    """Frames of mel and of source before a frame that its samples need."""
    right: int
    """Frames of mel and of source after a frame that its samples need."""
    f0: int
    """Frames of mel to each side of a frame that its F0 needs."""

    @property
    def lookahead(self) -> int:
        """Frames of mel that must have come after a frame before its samples are settled."""
        return self.right + self.f0


@lru_cache(maxsize=8)
def context(spec: HiFTSpec) -> Context:
    """The context of HiFT's frames, found by following one frame's samples back through every layer.

    The dependence is a range of places (first, last) at each layer, places counted from the frame's own start.
    """
    per_frame = math.prod(spec.upsample_rates) * spec.hop
    edge = EDGE_KERNEL // 2
    # Inverse STFT, whose frame m spans the samples from m hop - n_fft / 2 on; then the last convolution.
    first = -((spec.n_fft // 2 - 1) // spec.hop) - edge
    last = (per_frame - 1 + spec.n_fft // 2) // spec.hop + edge
    sources = []
    for stage in reversed(range(len(spec.upsample_rates))):
        reach = _resblock_reach(max(spec.kernels), spec.dilations)
        first, last = first - reach, last + reach
        # The source's branch: residual block, strided convolution, STFT.
        reach = _resblock_reach(spec.source_kernels[stage], spec.dilations)
        down = math.prod(spec.upsample_rates[stage + 1 :])
        begin, end = (first - reach) * down, (last + reach) * down
        if down > 1:
            begin, end = begin - down // 2, end - down // 2 + 2 * down - 1
        sources.append((begin * spec.hop - spec.n_fft // 2, end * spec.hop + spec.n_fft // 2 - 1))
        # The mel's branch: the reflected frame in front of the last stage moves its places by one.
        if down == 1:
            first, last = first - 1, last - 1
        rate, kernel = spec.upsample_rates[stage], spec.upsample_kernels[stage]
        padding = (kernel - rate) // 2
        first, last = -((kernel - 1 - padding - first) // rate), (last + padding) // rate
    first, last = first - edge, last + edge
    return Context(
        left=max(-first, *(-(begin // per_frame) for begin, _ in sources)),
        right=max(last, *(end // per_frame for _, end in sources)),
        f0=F0_LAYERS * (F0_KERNEL // 2),
    )


def _resblock_reach(kernel: int, dilations: tuple[int, ...]) -> int:
    """Places to each side that a residual block's output depends on."""
    return sum(kernel // 2 * (dilation + 1) for dilation in dilations)


@dataclass(frozen=True, slots=True)
class _Held:
    """What a stream keeps of its past: as many frames as HiFT's context asks for, whatever the utterance's length."""

    mel: Tensor
    """(mel_bins, frames), ending with the last frame received."""
    source: Tensor
    """(samples,), from the first frame held to the last one whose F0 is settled."""
    phase: Tensor
    """(harmonics,) float64 cycles after the last source sample."""

    @classmethod
    def nothing(cls, hift: HiFT) -> "_Held":
        weight = hift.f0_predictor.classifier.weight  # on HiFT's device, and float32
        mel_bins = hift.conv_pre.in_channels
        return cls(
            weight.new_empty(mel_bins, 0), weight.new_empty(0), weight.new_zeros(hift.harmonics, dtype=torch.float64)
        )


@dataclass(slots=True)
class HiFTStream:
    """One utterance on its way through HiFT; `HiFTStream(seed)` begins it. Its size is bounded by HiFT's context."""

    seed: int
    received: int = 0
    """Mel frames so far."""
    sourced: int = 0
    """Frames whose source is made."""
    emitted: int = 0
    """Frames whose samples have been given out."""
    finished: bool = False
    held: _Held | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one stream needs of a call. Streams of one plan run together. Counted in frames; starts in held frames."""

    held: int
    """Frames held, the new ones included."""
    f0_start: int
    """Where the mel for F0 starts; it ends with the frames held."""
    source_start: int
    source_frames: int
    """Source to make."""
    emit_start: int
    emit_frames: int
    """Samples to give out."""
    keep_start: int
    """Where the frames start that the next call needs."""


def _plan(reach: Context, stream: HiFTStream, new: int, final: bool) -> _Plan:
    start = max(0, stream.emitted - reach.left)  # of the frames held
    received = stream.received + new
    sourced = received if final else max(0, received - reach.f0)
    emitted = received if final else max(0, sourced - reach.right)
    return _Plan(
        held=received - start,
        f0_start=max(0, stream.sourced - reach.f0 - start),
        source_start=stream.sourced - start,
        source_frames=sourced - stream.sourced,
        emit_start=stream.emitted - start,
        emit_frames=emitted - stream.emitted,
        keep_start=max(0, emitted - reach.left - start),
    )


def advance(hift: HiFT, streams: Sequence[HiFTStream], mels: Sequence[Tensor], final: Sequence[bool]) -> list[Tensor]:
    """`advance_grouped` through HiFT.

    However an utterance is cut into calls, and whatever other streams share them, its samples in a row are those of
    an offline pass. A frame's samples come once `context(hift.spec).lookahead` frames after it are there.
    """
    return advance_grouped(streams, mels, final, partial(_plan, context(hift.spec)), partial(_run, hift))


def _run(hift: HiFT, plan: _Plan, streams: list[HiFTStream], mels: list[Tensor]) -> Tensor:
    """One call for streams of one plan: moves them on and returns their new samples (G, N)."""
    size = hift.samples_per_frame
    held = [stream.held or _Held.nothing(hift) for stream in streams]
    mel = torch.stack([torch.cat((past.mel, new.to(past.mel)), dim=1) for past, new in zip(held, mels, strict=True)])
    source = torch.stack([past.source for past in held])
    phase = torch.stack([past.phase for past in held])
    if plan.source_frames:
        made, phase = _make_source(hift, plan, streams, mel[:, :, plan.f0_start :], phase)
        source = torch.cat((source, made), dim=1)
    samples = source.new_empty(len(streams), 0)
    if plan.emit_frames:
        window = hift.decode(mel[:, :, : source.shape[1] // size], source[:, None])
        samples = window[:, plan.emit_start * size : (plan.emit_start + plan.emit_frames) * size]
    for row, stream in enumerate(streams):
        stream.received += mels[row].shape[1]
        stream.sourced += plan.source_frames
        stream.emitted += plan.emit_frames
        # Cloned, for a view would keep the group's whole window alive.
        stream.held = (
            None
            if stream.finished
            else _Held(
                mel[row, :, plan.keep_start :].clone(),
                source[row, plan.keep_start * size :].clone(),
                phase[row].clone(),
            )
        )
    return samples


def _make_source(
    hift: HiFT, plan: _Plan, streams: list[HiFTStream], mel: Tensor, phase: Tensor
) -> tuple[Tensor, Tensor]:
    """Source (G, N) of the plan's new frames, and the phase after it, from mel (G, mel_bins, frames) around them."""
    first = plan.source_start - plan.f0_start
    f0 = hift.f0(mel)[:, first : first + plan.source_frames]
    seeds = torch.tensor([s.seed for s in streams], device=mel.device)
    starts = torch.tensor([s.sourced * hift.samples_per_frame for s in streams], device=mel.device)
    source, phase = hift.excite(f0, phase, seeds, starts)
    return source[:, 0], phase
