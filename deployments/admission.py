"""The gate: how many streams may be in flight, for both stages together, and what is logged of each."""

import logging
import time
from collections import Counter
from typing import Any

from chatterbox_engine.errors import Overloaded
from chatterbox_engine.types import SAMPLE_RATE
from deployments.caller import ANYBODY, Caller
from deployments.faults import ServiceEnding
from deployments.metrics import IngressMetrics
from deployments.tracing import Span, Tracer

logger = logging.getLogger("ray.serve")

_RETRY_AFTER_S = 2.0


class Gate:
    """Lets in as many streams as there are places, and counts how they end."""

    def __init__(self, places: int, metrics: IngressMetrics, tracer: Tracer) -> None:
        self._places = places
        self._tracer = tracer
        self._metrics = metrics
        self.live = 0
        self.closed = False
        """For good: the service is ending."""
        self.refused = 0
        """For want of places, since the start."""
        self._of: Counter[str | None] = Counter()

    def enter(self, caller: Caller = ANYBODY, parent: str | None = None) -> "Ticket":
        """Take a place; `parent`: the traceparent of what asks. Raises Overloaded where none is free, or where the
        caller has all that are its due; ServiceEnding."""
        if self.closed:
            self._metrics.ended("refused", ServiceEnding.__name__)
            raise ServiceEnding
        full = self.live >= self._places
        if full or (caller.streams is not None and self._of[caller.name] >= caller.streams):
            self.refused += full
            self._metrics.ended("overloaded", Overloaded.__name__)
            raise (
                Overloaded(_RETRY_AFTER_S)
                if full
                else Overloaded(_RETRY_AFTER_S, f"The key {caller.name!r} may have {caller.streams} streams at a time.")
            )
        self.live += 1
        self._of[caller.name] += 1
        self._metrics.live(self.live)
        return Ticket(self, caller, self._tracer.begin("speech", parent))

    def resize(self, places: int) -> None:
        """So many places from now on. Who is in stays, also beyond them."""
        self._places = places

    def leave(self, outcome: str, caller: Caller, error: str | None) -> None:
        self.live -= 1
        self._of[caller.name] -= 1
        if not self._of[caller.name]:
            del self._of[caller.name]
        self._metrics.live(self.live)
        self._metrics.ended(outcome, error)


class Ticket:
    """One stream's place, given back once however often `end` is called.

    A request that is cancelled between two of its parts may never come to call it: then the place is given back when
    nobody holds the ticket any more.
    """

    def __init__(self, gate: Gate, caller: Caller, span: Span) -> None:
        self._gate: Gate | None = gate
        self._span = span
        self._caller = caller
        self._begin = time.monotonic()
        self._first_s: float | None = None
        self._samples = 0
        self.about: dict[str, Any] = {}
        """What else the log is to say of it."""

    @property
    def traceparent(self) -> str | None:
        """For the stages' spans."""
        return self._span.traceparent

    def heard(self, samples: int) -> None:
        """So many samples more were sent."""
        if self._first_s is None and samples:
            self._first_s = time.monotonic() - self._begin
            self._span.event("first audio")
        self._samples += samples

    def end(self, outcome: str, error: str | None = None) -> None:
        """`outcome`: ok, refused, overloaded, failed or cancelled, which becomes unheard where there was no sound
        yet; `error`: the kind that ended it. One log line tells it, with its figures as fields where that is JSON."""
        if self._gate is None:
            return
        gate, self._gate = self._gate, None
        if outcome == "cancelled" and self._first_s is None:
            outcome = "unheard"
        gate.leave(outcome, self._caller, error)
        seconds, took_s = self._samples / SAMPLE_RATE, time.monotonic() - self._begin
        first_s = None if self._first_s is None else round(self._first_s, 3)
        fields = {"outcome": outcome, "key": self._caller.name, "audio_s": round(seconds, 3), "first_audio_s": first_s}
        told = "no audio" if first_s is None else f"{seconds:.2f} s of audio, the first after {first_s:.3f} s"
        logger.info(
            "speech %s: %s, %.2f s in all", outcome, told, took_s,
            extra={**fields, "took_s": round(took_s, 3), **self.about},
        )  # fmt: skip
        self._span.end(**fields, **self.about, error=error)

    def __del__(self) -> None:
        self.end("cancelled")
