"""Which replica of a stage a stream goes to: of those that are enough, one that has the voice at hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from chatterbox_engine.types import SpeechRequest
from deployments.scaling import RESERVE

TOLD_S = 2.0
"""Between two times that a replica tells a router of itself."""
_MORE = 0.25
"""Of the least load: so much more a replica may have for having the voice; one stream at least."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A replica, as a stream that needs one sees it."""

    load: int
    """Streams that it has."""
    has_voice: bool = False
    carries: float = math.inf
    """Streams that it can have; 0 while it turns listeners away."""
    began: float = math.inf
    """When it started, in seconds of any clock; as good as last where it has not told yet."""


def enough(seats: Sequence[Seat], least: int) -> int:
    """Replicas that do for the streams that there are and one more, with the policy's reserve; `least` at least."""
    streams = 1 + sum(seat.load for seat in seats)
    told = [seat.carries for seat in seats if math.isfinite(seat.carries)]
    carries = sum(told) / len(told) if told else math.inf
    return max(least, math.ceil((streams + RESERVE * math.sqrt(streams)) / max(1.0, carries)))


def ranked(seats: Sequence[Seat], least: int = 1) -> list[list[int]]:
    """Indices, the better ones first; the least loaded of a group is to be taken, and of the next if none answers.

    Those that started first are taken while they are enough and have room. The others are what the policy will let go,
    the last first as Ray does: they have finished their streams by then, and are at hand until then. So nobody gets a
    fuller replica than a minute later anyhow.

    Making a voice's conditioning anew costs little beside a stream that waits: no voice is worth a fuller replica by
    more than a quarter, or by one stream.
    """
    if not seats:
        return []
    by_age = sorted(range(len(seats)), key=lambda index: seats[index].began)
    kept = [index for index in by_age[: enough(seats, least)] if seats[index].load < seats[index].carries]
    come = sorted(kept or by_age)
    least_load = min(seats[index].load for index in come)
    near = [index for index in come if seats[index].load <= least_load + max(1, int(_MORE * least_load))]
    others = sorted(set(by_age) - set(near))
    groups = [*([index for index in near if seats[index].has_voice is has] for has in (True, False)), others]
    return [group for group in groups if group]


class VoiceRouter(RequestRouter):
    """Ray Serve's side of `ranked`. Ray calls this interface alpha; 2.60 is what it was written for.

    It sees a call's arguments, and so the voice. Loads are those that this handle knows of, or knew of last: Ray
    forgets one after 10 s, and a replica that gets no streams would not be asked for it again. Where it has never known
    one, Ray takes the least loaded of those that it does know, and asks the others meanwhile.
    """

    def initialize_state(self, least: int = 1) -> None:  # type: ignore[override]
        """`least`: replicas that there are always."""
        self._least = least
        self._loads: dict[ReplicaID, int] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if len(candidate_replicas) < 2:
            return [candidate_replicas]
        loads = self._known(candidate_replicas)
        voice, seats = _voice(pending_request), []
        for replica in candidate_replicas:
            load, told = loads[replica.replica_id], replica.routing_stats
            if load is None:
                return [candidate_replicas]
            has_voice = voice in told.get("voices", ())
            seats.append(Seat(load, has_voice, told.get("carries", math.inf), told.get("began", math.inf)))
        return [[candidate_replicas[index] for index in group] for group in ranked(seats, self._least)]

    def _known(self, replicas: Sequence[RunningReplica]) -> dict[ReplicaID, int | None]:
        """Loads; those that were known before, or never, are asked for meanwhile."""
        now = {replica.replica_id: self.replica_queue_len_cache.get(replica.replica_id) for replica in replicas}
        if stale := [replica for replica in replicas if now[replica.replica_id] is None]:
            self._event_loop.create_task(self._probe_queue_lens(stale, 0))
        known = {one: self._loads.get(one) if load is None else load for one, load in now.items()}
        self._loads = {one: load for one, load in known.items() if load is not None}
        return known


def _voice(request: PendingRequest | None) -> str | None:
    arguments: Sequence[Any] = request.args if request is not None else ()
    return arguments[0].voice if arguments and isinstance(arguments[0], SpeechRequest) else None
