"""Whether there is memory for one more listener, where chunks go on from what is kept. Holds no tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.s3gen.pages import PAGE
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.types import FRAMES_PER_TOKEN, TOKEN_RATE, S3GenVoice

_PIECE_S = 20.0
"""A long piece of text, spoken: more than that is rarely kept."""
_SHARE = 0.9
"""Of the memory that is free: the rest is for what a call needs only while it runs."""


@dataclass(frozen=True, slots=True)
class Room:
    """Counts what live streams may still come to keep, beside what is free now, whoever else has the rest.

    Nobody is kept out where nobody is in: waiting would not make more room.
    """

    second_bytes: int
    """Kept of a second of a stream, or of a prompt."""
    most_s: float
    """Kept of a stream, at most, between calls."""
    call_s: float
    """Kept beside by the streams of a call until it has ended."""
    shares: bool
    """A voice's streams share its prompt."""
    free: Callable[[], int]
    """Bytes that may still be taken."""

    @classmethod
    def of(cls, switches: S3GenSwitches, second_bytes: int, shares: bool, free: Callable[[], int]) -> "Room":
        """For as many streams a call as the configuration has."""
        window = switches.context_window
        own_s = _PIECE_S if window is None else min(_PIECE_S, window / TOKEN_RATE)
        most_s = own_s + 2 * PAGE / (FRAMES_PER_TOKEN * TOKEN_RATE)  # the first and the last page are partly filled
        call_s = min(switches.max_batch, switches.max_streams) * max(switches.chunk_schedule) / TOKEN_RATE
        return cls(second_bytes, most_s, call_s, shares, free)

    def admits(self, streams: Sequence[SpeechStream], voice: S3GenVoice | None = None) -> bool:
        """Whether all would find memory with one more beside `streams`, whose voice may be known."""
        live = [(stream.voice, stream.kept_s) for stream in streams if not stream.audio.closed]
        if not live:
            return True
        voices = [own for own, kept_s in live if not kept_s]
        voices += [voice] if voice else []
        prompts = {own.id if self.shares else index: own.prompt.shape[1] for index, own in enumerate(voices)}
        grows_s = sum(max(0.0, self.most_s - kept_s) for _, kept_s in live) + self.most_s
        return grows_s + sum(prompts.values()) / TOKEN_RATE <= self._free_s()

    def places(self, most: int) -> int:
        """Of so many streams those that would find memory, if none were there yet."""
        return max(1, min(most, int(self._free_s() / self.most_s)))

    def _free_s(self) -> float:
        """Seconds of audio that would find memory, beside a call."""
        return _SHARE * self.free() / self.second_bytes - self.call_s
