"""How many listeners can be kept supplied at once, learned from how fast audio comes. Holds no tensors."""

import math
import statistics
from collections import deque
from collections.abc import Sequence

from chatterbox_engine.s3gen.scheduler import MARGIN_S
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.trend import Trend
from chatterbox_engine.types import SAMPLE_RATE

_SPAN_S = 1.0
"""Of a measurement, at least."""
_MOST = 0.8
"""Seconds for a second of audio of each stream beyond which nobody is let in: above 1 all of them run dry."""
_BURST_S = 0.8
"""Seconds that first chunks which wait may take together: after each its stream needs another within a second."""
_CALLS = 16
"""The last calls, by which a chunk's time is known."""


class Capacity:
    """Watches all streams at once, so that it does not matter which stage, or what else on the machine, limits them.

    A stream takes p seconds for a second of its audio while n of them are being made, and p grows with n along a line,
    which is learned. Nothing is known of n before a load like it: until then listeners who are about to run dry keep
    others out. Where one stream alone does not keep up, nobody is kept out: waiting would not make it better.
    """

    def __init__(self, queue_chunks: int) -> None:
        """`queue_chunks`: a stream of which so many are unread waits for its listener."""
        self._queue_chunks = queue_chunks
        self._pace = Trend()
        self._since: float | None = None
        self._making = 0
        self._span = self._area = 0.0
        self._samples = 0
        self._spare_s = math.inf
        self._chunks_s: deque[float] = deque((0.0,), maxlen=_CALLS)
        """Seconds of each of the last calls for each of its streams."""

    def observe(
        self, now: float, streams: Sequence[SpeechStream], samples: int, spare_s: float, chunk_s: float
    ) -> None:
        """After a call of S3Gen.

        Args:
            samples: made since the last call, for all streams together.
            spare_s: what `scheduler.batch` says.
            chunk_s: the call's seconds for each of its streams.
        """
        self._spare_s = spare_s
        self._chunks_s.append(chunk_s)
        since, self._since = self._since, now  # read once: another thread may ask `admits` meanwhile
        if since is not None and self._making:
            self._span += now - since
            self._area += (now - since) * self._making
        self._making = sum(self._made(stream, now) for stream in streams)
        self._samples += samples
        if self._span >= _SPAN_S and self._samples:
            self._pace.see(self._area / self._span, self._area * SAMPLE_RATE / self._samples)
            self._span = self._area = 0.0
            self._samples = 0

    def admits(self, now: float, streams: Sequence[SpeechStream]) -> bool:
        """Whether a newcomer beside `streams` would leave everyone supplied."""
        making = [stream for stream in streams if self._made(stream, now)]
        if not making:
            self._since = None  # the time since the last call was nobody's
            return True
        if self._pace(1) > _MOST:
            return True
        dry = any(stream.paced and stream.playing and stream.due < now for stream in making)
        new = 1 + sum(not stream.playing for stream in making)
        burst = new > 1 and new * statistics.median_low(self._chunks_s) > _BURST_S
        return not (dry or burst) and self._spare_s >= MARGIN_S and self._pace(len(making) + 1) <= _MOST

    def carries(self) -> int | None:
        """Listeners that can be kept supplied at once, where that is known; None before, and where not even one can."""
        if not self._pace.slope or self._pace(1) > _MOST:
            return None
        return int((_MOST - self._pace(0)) / self._pace.slope)

    def _made(self, stream: SpeechStream, now: float) -> bool:
        """Audio of it is being made, or waited for; neither is its listener far behind, nor has it all been made."""
        behind = stream.audio.full(self._queue_chunks) or stream.ahead(now)
        return not stream.audio.closed and not behind and not stream.over()
