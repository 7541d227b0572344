"""From the chunks of some streams to their mel frames, in one call of the flow: a window each, or what is new alone."""

from collections import OrderedDict
from typing import Protocol

import torch
from torch import Tensor

from chatterbox_engine.s3gen.flow import FlowPast, flow_noise
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.s3gen.scheduler import Work
from chatterbox_engine.s3gen.stream import Chunk, SpeechStream
from chatterbox_engine.types import FRAMES_PER_TOKEN, S3GenVoice

_VOICES = 4
"""Of the voices used last what is kept: some MB each for the bundled model, some hundred for the published ones."""


_MOST_PADDING = 0.125
CALL_TOKENS = 20
"""A call costs about as much as so many tokens more in it, measured with the bundled model on a CPU."""


class Mels(Protocol):
    """A way to call the flow."""

    repeats: bool
    """A call that failed has changed nothing and may be made again."""

    def length(self, stream: SpeechStream, chunk: Chunk) -> int:
        """Tokens that a chunk puts into a call."""

    def fits(self, item: Work, first: Work) -> bool:
        """A chunk may go into the call that `first` leads."""

    def __call__(self, work: list[Work]) -> list[Tensor]:
        """The new mel frames (mel_bins, n) of each chunk; all of them fit the first."""

    def rest(self) -> None:
        """Let go of what is kept on the device."""


class WindowMels:
    """Each chunk is computed with its prompt and the tokens before it, as if they were all there is."""

    repeats = True

    def __init__(self, model: S3GenModel, steps: int | None) -> None:
        self._model = model
        self._steps = steps
        self._lookahead = model.spec.encoder.lookahead

    def length(self, stream: SpeechStream, chunk: Chunk) -> int:
        tail = 0 if chunk.final else self._lookahead
        return stream.voice.prompt.shape[1] + chunk.end + tail - chunk.start

    def fits(self, item: Work, first: Work) -> bool:
        return item.chunk.final == first.chunk.final and alike(item, first, 0)

    def __call__(self, work: list[Work]) -> list[Tensor]:
        model, device = self._model, self._model.device
        longest = max(item.tokens for item in work)
        prompt = work[0].prompt
        windows = []
        for item in work:
            own = item.chunk.piece.tokens[item.chunk.start : item.chunk.start + item.tokens - prompt]
            windows.append(torch.cat((item.stream.voice.prompt[0], torch.tensor(own, dtype=torch.int64))))
        ragged = any(item.tokens != longest for item in work)
        mel = model.flow(
            _padded(windows).to(device),
            torch.cat([item.stream.voice.feat for item in work]).to(device, model.dtype),
            torch.cat([item.stream.voice.speaker for item in work]).to(device, model.dtype),
            self._noise(work, longest),
            lengths=torch.tensor([item.tokens for item in work], device=device) if ragged else None,
            steps=self._steps,
            final=work[0].chunk.final,
        )
        begins = [FRAMES_PER_TOKEN * (item.chunk.piece.done - item.chunk.start) for item in work]
        ends = [FRAMES_PER_TOKEN * (item.chunk.end - item.chunk.start) for item in work]
        return [mel[row, :, begin:end] for row, (begin, end) in enumerate(zip(begins, ends, strict=True))]

    def rest(self) -> None:
        pass

    def _noise(self, work: list[Work], longest: int) -> Tensor:
        """The flow's noise (B, 80, frames): by place in the prompt, then by place in the piece."""
        device, prompt = self._model.device, work[0].prompt
        seeds = torch.tensor([item.chunk.piece.seed for item in work], device=device)
        starts = torch.tensor([FRAMES_PER_TOKEN * item.chunk.start for item in work], device=device)
        frames = FRAMES_PER_TOKEN * prompt, starts, FRAMES_PER_TOKEN * (longest - prompt)
        return flow_noise(seeds, *frames, self._model.spec.mel_bins)


class ChunkedMels:
    """Each chunk goes on from what is kept of its stream, and a stream's first from what is kept of its voice."""

    repeats = False

    def __init__(self, model: S3GenModel, steps: int | None) -> None:
        self._model = model
        self._steps = steps
        self._lookahead = model.spec.encoder.lookahead
        self._voices: OrderedDict[str, FlowPast] = OrderedDict()

    def length(self, stream: SpeechStream, chunk: Chunk) -> int:
        before = 0 if chunk.piece.done else min(self._lookahead, stream.voice.prompt.shape[1])
        return before + chunk.end - chunk.piece.done + (0 if chunk.final else self._lookahead)

    def fits(self, item: Work, first: Work) -> bool:
        return alike(item, first, CALL_TOKENS)

    def __call__(self, work: list[Work]) -> list[Tensor]:
        model, device = self._model, self._model.device
        pasts, new, noises = [], [], []
        for item in work:
            piece, voice = item.chunk.piece, item.stream.voice
            if piece.flow is None:
                piece.flow = self._heard(voice).copy()
            pasts.append(piece.flow)
            tail = 0 if item.chunk.final else self._lookahead
            own = torch.tensor(piece.tokens[piece.done : item.chunk.end + tail], dtype=torch.int64)
            new.append(torch.cat((voice.prompt[0, piece.flow.frames // FRAMES_PER_TOKEN :], own)))
            noises.append(self._noise(item, piece.flow))
        mels = model.flow.go_on(
            [tokens.to(device) for tokens in new],
            [item.chunk.final for item in work],
            torch.cat([item.stream.voice.feat for item in work]).to(device, model.dtype),
            torch.cat([item.stream.voice.speaker for item in work]).to(device, model.dtype),
            torch.nn.utils.rnn.pad_sequence(noises, batch_first=True).transpose(1, 2),
            pasts,
        )
        for item, past in zip(work, pasts, strict=True):
            if (window := item.stream.context_window) is not None:
                past.forget(FRAMES_PER_TOKEN * item.prompt, FRAMES_PER_TOKEN * window)
        return mels

    def rest(self) -> None:
        self._voices.clear()

    def _heard(self, voice: S3GenVoice) -> FlowPast:
        """The voice's prompt, computed at its first use."""
        model, device = self._model, self._model.device
        if voice.id not in self._voices:
            given = voice.feat.to(device, model.dtype), voice.speaker.to(device, model.dtype)
            self._voices[voice.id] = model.flow.hear(voice.prompt.to(device), *given, steps=self._steps)
            if len(self._voices) > _VOICES:
                self._voices.popitem(last=False)
        self._voices.move_to_end(voice.id)
        return self._voices[voice.id]

    def _noise(self, item: Work, past: FlowPast) -> Tensor:
        """The flow's noise (frames, 80) of a chunk's new frames: in the prompt, then in the piece."""
        seed = torch.tensor([item.chunk.piece.seed], device=self._model.device)
        prompt = FRAMES_PER_TOKEN * item.prompt
        start = FRAMES_PER_TOKEN * item.chunk.piece.done
        frames = FRAMES_PER_TOKEN * item.chunk.end - start
        return flow_noise(seed, prompt, start, frames, self._model.spec.mel_bins)[0, :, min(prompt, past.frames) :].T


def alike(item: Work, first: Work, slack: int) -> bool:
    """Of voices with prompts of one length, and of no more padding than `slack` tokens or a share of the longer one."""
    padding = abs(item.tokens - first.tokens)
    return item.prompt == first.prompt and padding <= max(slack, _MOST_PADDING * max(item.tokens, first.tokens))


def _padded(rows: list[Tensor]) -> Tensor:
    """(B, T) from rows of up to T tokens."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
