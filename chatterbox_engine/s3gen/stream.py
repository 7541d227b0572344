"""One utterance in S3Gen: its tokens, what of them is already audio, and when its listener runs dry."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.s3gen.flow import FlowPast
from chatterbox_engine.types import (
    SAMPLE_RATE,
    SAMPLES_PER_TOKEN,
    TOKEN_RATE,
    Begun,
    Interrupted,
    Progress,
    S3GenVoice,
    SpokenWord,
)
from chatterbox_engine.watermark import WatermarkStream

_DAY_S = 86_400.0


@dataclass(slots=True)
class Piece:
    """A part of the utterance that T3 speaks in one go."""

    number: int
    """Of the utterance's pieces."""
    seed: int
    pause_s: float
    """Silence after it."""
    tokens: list[int] = field(default_factory=list)
    words: list[Begun] = field(default_factory=list)
    """Those that T3 says begin in it."""
    placed: int = 0
    """Of them, those whose place in the utterance is known."""
    told: int = 0
    """And those that the listener was told of."""
    complete: bool = False
    """T3 has ended: no more tokens come."""
    done: int = 0
    """Tokens whose mel frames are committed."""
    begin: int | None = None
    """Sample of the utterance at which it begins; None before its first chunk."""
    end: int | None = None
    """And the one after its pause, once it is made."""
    before: int = 0
    """Chunks before it."""
    ends: list[int] = field(default_factory=list)
    """Of its chunks but the last one."""
    samples: int = 0
    """Samples made of it, without the pause."""
    flow: FlowPast | None = None
    """What the flow keeps of it, where it speaks chunk by chunk; None before the first."""
    vocoder: Any = None
    """What the vocoder keeps of it; None before the first chunk."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next part of a piece to turn into audio: tokens [start, end) of it, of which [done, end) are new."""

    piece: Piece
    start: int
    end: int
    final: bool
    """No look-ahead tokens follow `end`: it is the piece's own end."""


class SpeechStream:
    """Fed with tokens by whoever reads T3, read through `audio`. Methods may be called from any thread.

    The engine's thread alone touches pieces that have begun and `position`.
    """

    def __init__(
        self,
        voice: S3GenVoice,
        lookahead: int,
        schedule: tuple[int, ...],
        context_window: int | None,
        max_lead_s: float | None,
        watermark: WatermarkStream | None,
        wake: Callable[[], None],
        opening_tokens: tuple[int, ...] = (),
        closing_tokens: tuple[int, ...] = (),
        speed: float = 1.0,
        hurry_s: float | None = None,
        interrupted: Interrupted | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.voice = voice
        self.audio: Mailbox[np.ndarray] = Mailbox(wake)
        self.watermark = watermark
        self._clock = clock
        self.opened = self.fed = clock()
        """When it was opened, and when its first tokens came."""
        self.samples = 0
        """Samples handed to the listener so far."""
        self.stalls = 0
        """Times that its listener ran dry before the end."""
        self.stalled_s = 0.0
        self._lookahead = lookahead
        self._schedule = schedule
        self.context_window = context_window
        self._max_lead_s = max_lead_s
        self._wake = wake
        self._opening_tokens = opening_tokens
        self._closing_tokens = closing_tokens
        self._speed = speed
        self._hurry_s = hurry_s
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._finished = False
        self._chunks = 0
        self._handed = 0
        self._playing_since: float | None = None
        self._made = 0
        self._words: list[tuple[Piece, SpokenWord]] = []
        self._begun = 0
        """Pieces."""
        self._heard: deque[Piece] = deque()
        """The piece that is being heard, and those after it."""
        self._skip = 0
        """Samples, words and ends of chunks that are made once more, of an utterance that was interrupted."""
        self._unsaid = 0
        self._planned: deque[int] = deque()
        if interrupted is not None:
            self._go_on(interrupted)

    def _go_on(self, interrupted: Interrupted) -> None:
        """From the begin of the piece that was being heard, with the same chunks; what was heard is skipped."""
        progress, self.samples = interrupted.progress, interrupted.samples
        self._skip = self.samples - progress.begin
        self._unsaid, self._planned = progress.told, deque(progress.ends)
        self._begun, self._made, self._chunks = progress.piece, progress.begin, progress.chunks
        self._playing_since = self._clock() + interrupted.slack_s - self.samples / SAMPLE_RATE / self._speed

    def begin_piece(self, seed: int, pause_s: float) -> tuple[int, ...]:
        """The tokens fed from now on belong to a new piece.

        Returns the sizes in which its tokens are best handed over, the last one repeating.
        """
        with self._lock:
            piece = Piece(self._begun, seed, pause_s)
            self._begun += 1
            self._pieces.append(piece)
            self._heard.append(piece)
            if self._hurry_s is None:
                sizes = self._schedule[min(self._handed, len(self._schedule) - 1) :]
            else:  # any of them may be wanted early
                sizes = self._schedule[:1]
            first = max(1, sizes[0] + self._lookahead - len(self._opening_tokens))
            return (first, *sizes[1:], sizes[-1])

    def feed(self, tokens: Iterable[int], *, final: bool, words: Sequence[Begun] = ()) -> None:
        """Tokens of the piece begun last; `final` ends it. The model's own stand before and after what was spoken.

        words: those that begin with these tokens.
        """
        with self._lock:
            if not self._handed:
                self.fed = self._clock()
            piece = self._pieces[-1]
            piece.words.extend(words)
            spoken = list(tokens)
            if spoken and not piece.tokens:
                piece.tokens.extend(self._opening_tokens)
            piece.tokens.extend(spoken)
            if final and piece.tokens:
                piece.tokens.extend(self._closing_tokens)
            piece.complete = final
            self._handed += 1
        self._wake()

    def finish(self) -> None:
        """No more pieces come."""
        with self._lock:
            self._finished = True
        self._wake()

    @property
    def due(self) -> float:
        """When the listener runs dry, on the monotonic clock; before the first sound, when the stream was opened.

        Where nobody listens, a day later than if somebody did: after all who do, and those behind first.
        """
        later = 0.0 if self.paced else _DAY_S
        if self._playing_since is None:
            return self.opened + later
        return self._playing_since + self.samples / SAMPLE_RATE / self._speed + later

    @property
    def paced(self) -> bool:
        """Somebody plays it as it comes."""
        return self._max_lead_s is not None

    @property
    def playing(self) -> bool:
        """Its first audio has come."""
        return self._playing_since is not None

    @property
    def kept_s(self) -> float:
        """Seconds made of the piece that is being spoken, which the flow goes on from; 0 before its first."""
        with self._lock:
            return self._pieces[0].done / TOKEN_RATE if self._pieces else 0.0

    @property
    def slack_s(self) -> float:
        """Seconds until the listener runs dry, 0 before the first sound; a day more where nobody listens."""
        return max(0.0, self.due - self._clock())

    def ahead(self, now: float) -> bool:
        """Far enough ahead of the listener's playback to wait."""
        return self._max_lead_s is not None and self._playing_since is not None and self.due - now > self._max_lead_s

    def next_chunk(self) -> Chunk | None:
        """The next chunk if its tokens are here. A piece without any token left is a final chunk without new ones."""
        with self._lock:
            if not self._pieces:
                return None
            piece = self._pieces[0]
            available, complete = len(piece.tokens), piece.complete
        if self._planned:
            size = self._planned[0] - piece.done
        else:
            size = self._size(self._chunks, available - piece.done - self._lookahead)
        start = 0 if self.context_window is None else max(0, piece.done - self.context_window)
        if available - piece.done >= size + self._lookahead:
            return Chunk(piece, start, piece.done + size, final=False)
        return Chunk(piece, start, available, final=True) if complete else None

    def over(self) -> bool:
        """Every piece is done and no more come."""
        with self._lock:
            return self._finished and not self._pieces

    def commit(self, chunk: Chunk, samples: int) -> None:
        """The chunk's mel is made, and so many samples with it, the pause after its piece among them."""
        piece = chunk.piece
        with self._lock:
            if piece.begin is None:
                piece.begin, piece.before = self._made, self._chunks
            piece.done = chunk.end
            self._chunks += 1
            self._made += samples
            self._place(piece, piece.begin)
            if self._planned:
                self._planned.popleft()
            if chunk.final:
                piece.end, piece.flow, piece.vocoder = self._made, None, None
                self._pieces.popleft()
            else:
                piece.ends.append(chunk.end)

    def _place(self, piece: Piece, begin: int) -> None:
        """Words of its tokens that are done begin at samples that are known."""
        for word in piece.words[piece.placed :]:
            token = len(self._opening_tokens) + word.token
            if token >= piece.done:
                return
            piece.placed += 1
            if self._unsaid:
                self._unsaid -= 1
                piece.told += 1
            else:
                self._words.append((piece, SpokenWord(word.text, begin + SAMPLES_PER_TOKEN * token)))

    def words(self) -> tuple[SpokenWord, ...]:
        """Those whose place has become known since the last time, in order."""
        with self._lock:
            words, self._words = self._words, []
            for piece, _ in words:
                piece.told += 1
        return tuple(word for _, word in words)

    def progress(self, samples: int) -> Progress:
        """Where it stands once its listener has so many samples, and the words that `words` has returned."""
        with self._lock:
            while self._heard and self._heard[0].end is not None and samples >= self._heard[0].end:
                self._heard.popleft()
            if not self._heard:
                return Progress(self._begun, self._made, self._chunks)
            piece = self._heard[0]
            if piece.begin is None:
                return Progress(piece.number, self._made, self._chunks)
            closing = len(self._closing_tokens) if piece.complete else 0
            tokens = piece.tokens[len(self._opening_tokens) : len(piece.tokens) - closing]
            return Progress(
                piece.number, piece.begin, piece.before, tuple(piece.ends), tuple(tokens), piece.complete,
                tuple(piece.words), sum(heard.told for heard in self._heard),
            )  # fmt: skip

    def emit(self, samples: np.ndarray, *, final: bool) -> None:
        """Hand audio (n,) to the listener."""
        again = min(self._skip, len(samples))
        self._skip -= again
        samples = samples[again:]
        if len(samples):
            self._play(self._clock())
        self.samples += len(samples)
        self.audio.put([samples] if len(samples) else [], final=final)

    def _play(self, now: float) -> None:
        """Audio has come: the listener begins, or goes on after silence, which puts off all that follows."""
        if self._playing_since is None:
            self._playing_since = now
        elif now > self.due:
            self.stalls += 1
            self.stalled_s += now - self.due
            self._playing_since += now - self.due

    def _size(self, chunk: int, here: int) -> int:
        """Tokens of a chunk, of which `here` are here: by the schedule, never by when they came.

        But a listener who is about to run dry gets those that are here, in parts of the schedule's first size.
        """
        size, part = self._schedule[min(chunk, len(self._schedule) - 1)], self._schedule[0]
        hurried = self._hurry_s is not None and self.playing and self.due - self._clock() < self._hurry_s
        return min(size, max(part, here // part * part)) if hurried else size
