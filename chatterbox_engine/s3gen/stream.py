"""One utterance in S3Gen: its tokens, what of them is already audio, and when its listener runs dry."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.s3gen.flow import FlowPast
from chatterbox_engine.s3gen.hift_stream import HiFTStream
from chatterbox_engine.types import SAMPLE_RATE, S3GenVoice
from chatterbox_engine.watermark import WatermarkStream


@dataclass(slots=True)
class Piece:
    """A part of the utterance that T3 speaks in one go."""

    seed: int
    pause_s: float
    """Silence after it."""
    hift: HiFTStream
    tokens: list[int] = field(default_factory=list)
    complete: bool = False
    """T3 has ended: no more tokens come."""
    done: int = 0
    """Tokens whose mel frames are committed."""
    samples: int = 0
    """Samples made of it, without the pause."""
    flow: FlowPast | None = None
    """What the flow keeps of it, where it speaks chunk by chunk; None before the first."""


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
    ) -> None:
        self.voice = voice
        self.audio: Mailbox[np.ndarray] = Mailbox(wake)
        self.watermark = watermark
        self.opened = time.monotonic()
        self.samples = 0
        """Samples handed to the listener so far."""
        self._lookahead = lookahead
        self._schedule = schedule
        self.context_window = context_window
        self._max_lead_s = max_lead_s
        self._wake = wake
        self._opening_tokens = opening_tokens
        self._closing_tokens = closing_tokens
        self._speed = speed
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._finished = False
        self._chunks = 0
        self._handed = 0
        self._playing_since: float | None = None

    def begin_piece(self, seed: int, pause_s: float) -> tuple[int, ...]:
        """The tokens fed from now on belong to a new piece.

        Returns the sizes in which its tokens are best handed over, the last one repeating.
        """
        with self._lock:
            self._pieces.append(Piece(seed, pause_s, HiFTStream(seed)))
            rest = self._schedule[min(self._handed, len(self._schedule) - 1) :]
            first = max(1, rest[0] + self._lookahead - len(self._opening_tokens))
            return (first, *rest[1:], self._schedule[-1])

    def feed(self, tokens: Iterable[int], *, final: bool) -> None:
        """Tokens of the piece begun last; `final` ends it. The model's own stand before and after what was spoken."""
        with self._lock:
            piece = self._pieces[-1]
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
        """When the listener runs dry, on the monotonic clock; before the first sound, when the stream was opened."""
        if self._playing_since is None:
            return self.opened
        return self._playing_since + self.samples / SAMPLE_RATE / self._speed

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
        size = self._size(self._chunks)
        start = 0 if self.context_window is None else max(0, piece.done - self.context_window)
        # Where a chunk ends depends on the tokens alone, never on when they came.
        if available - piece.done >= size + self._lookahead:
            return Chunk(piece, start, piece.done + size, final=False)
        return Chunk(piece, start, available, final=True) if complete else None

    def over(self) -> bool:
        """Every piece is done and no more come."""
        with self._lock:
            return self._finished and not self._pieces

    def commit(self, chunk: Chunk) -> None:
        """The chunk's mel is made."""
        self._chunks += 1
        chunk.piece.done = chunk.end
        if chunk.final:
            with self._lock:
                self._pieces.popleft()

    def emit(self, samples: np.ndarray, *, final: bool) -> None:
        """Hand audio (n,) to the listener, through the watermark where there is one."""
        if self.watermark is not None:
            samples = self.watermark.push(samples, final=final)
        if len(samples) and self._playing_since is None:
            self._playing_since = time.monotonic()
        self.samples += len(samples)
        self.audio.put([samples] if len(samples) else [], final=final)

    def _size(self, chunk: int) -> int:
        return self._schedule[min(chunk, len(self._schedule) - 1)]
