"""The listener's player: it starts with the first byte and must never run dry."""

PCM_BYTES_PER_SECOND = 48_000
"""16-bit mono at 24 kHz."""


class Playback:
    """What a player hears of one stream, by the bytes it gets and when; it reads no clock itself."""

    def __init__(self, begin: float, bytes_per_second: int = PCM_BYTES_PER_SECOND) -> None:
        self.begin = begin
        """When the request was sent."""
        self.bytes = 0
        self.stalls = 0
        """Times that audio came after all before it had been played."""
        self.stall_seconds = 0.0
        self.first_at: float | None = None
        """When the first audio came."""
        self.last_at = begin
        """When the latest audio came."""
        self.ends_at = begin
        """When all that came so far will have been played."""
        self._rate = bytes_per_second

    def received(self, size: int, now: float) -> None:
        """`size` bytes of audio came; `now` never goes back."""
        if size == 0:
            return
        if self.first_at is None:
            self.first_at = self.ends_at = now
        elif now > self.ends_at:
            self.stalls += 1
            self.stall_seconds += now - self.ends_at
            self.ends_at = now
        self.bytes += size
        self.last_at = now
        self.ends_at += size / self._rate

    @property
    def seconds(self) -> float:
        """Audio received so far."""
        return self.bytes / self._rate

    @property
    def real_time_factor(self) -> float:
        """Seconds from the request to the latest audio, for a second of it. Needs some audio."""
        return (self.last_at - self.begin) / self.seconds
