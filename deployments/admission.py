"""The gate: how many streams may be in flight, for both stages together."""

from chatterbox_engine.errors import Overloaded
from deployments.metrics import IngressMetrics

_RETRY_AFTER_S = 2.0


class Gate:
    """Lets in as many streams as there are places, and counts how they end."""

    def __init__(self, places: int, metrics: IngressMetrics) -> None:
        self._places = places
        self._metrics = metrics
        self.live = 0

    def enter(self) -> "Ticket":
        """Take a place. Raises Overloaded where none is free."""
        if self.live >= self._places:
            self._metrics.ended("overloaded")
            raise Overloaded(_RETRY_AFTER_S)
        self.live += 1
        self._metrics.live(self.live)
        return Ticket(self)

    def leave(self, outcome: str) -> None:
        self.live -= 1
        self._metrics.live(self.live)
        self._metrics.ended(outcome)


class Ticket:
    """One stream's place, given back once however often `end` is called.

    A request that is cancelled between two of its parts may never come to call it: then the place is given back when
    nobody holds the ticket any more.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def end(self, outcome: str) -> None:
        """`outcome`: ok, refused, overloaded, failed or cancelled."""
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.leave(outcome)

    def __del__(self) -> None:
        self.end("cancelled")
