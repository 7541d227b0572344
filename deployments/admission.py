"""The gate: how many streams may be in flight, for both stages together."""

from collections import Counter

from chatterbox_engine.errors import Overloaded
from deployments.caller import ANYBODY, Caller
from deployments.metrics import IngressMetrics

_RETRY_AFTER_S = 2.0


class Gate:
    """Lets in as many streams as there are places, and counts how they end."""

    def __init__(self, places: int, metrics: IngressMetrics) -> None:
        self._places = places
        self._metrics = metrics
        self.live = 0
        self._of: Counter[str | None] = Counter()

    def enter(self, caller: Caller = ANYBODY) -> "Ticket":
        """Take a place. Raises Overloaded where none is free, or where the caller has all that are its due."""
        full = self.live >= self._places
        if full or (caller.streams is not None and self._of[caller.name] >= caller.streams):
            self._metrics.ended("overloaded")
            raise (
                Overloaded(_RETRY_AFTER_S)
                if full
                else Overloaded(_RETRY_AFTER_S, f"The key {caller.name!r} may have {caller.streams} streams at a time.")
            )
        self.live += 1
        self._of[caller.name] += 1
        self._metrics.live(self.live)
        return Ticket(self, caller)

    def leave(self, outcome: str, caller: Caller) -> None:
        self.live -= 1
        self._of[caller.name] -= 1
        if not self._of[caller.name]:
            del self._of[caller.name]
        self._metrics.live(self.live)
        self._metrics.ended(outcome)


class Ticket:
    """One stream's place, given back once however often `end` is called.

    A request that is cancelled between two of its parts may never come to call it: then the place is given back when
    nobody holds the ticket any more.
    """

    def __init__(self, gate: Gate, caller: Caller) -> None:
        self._gate: Gate | None = gate
        self._caller = caller

    def end(self, outcome: str) -> None:
        """`outcome`: ok, refused, overloaded, failed or cancelled."""
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.leave(outcome, self._caller)

    def __del__(self) -> None:
        self.end("cancelled")
