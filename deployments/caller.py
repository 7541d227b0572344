"""Who is asking."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Whoever a key belongs to. Without keys everybody is the same one."""

    name: str | None = None
    streams: int | None = None
    """At a time. None: as many as there are places."""
    shared_voices: bool = True

    @property
    def shelf(self) -> str | None:
        """Where its own voices are; None: with those that everybody may use."""
        return None if self.shared_voices else self.name


ANYBODY = Caller()
