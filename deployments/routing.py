"""Which replica of a stage a stream goes to: one of the least loaded, and of those one that has the voice at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from chatterbox_engine.types import SpeechRequest

_MORE = 0.25
"""Of the least load: so much more a replica may have for having the voice; one stream at least."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A replica, as a stream that needs one sees it."""

    load: int
    """Streams that it has."""
    has_voice: bool


def ranked(seats: Sequence[Seat]) -> list[list[int]]:
    """Indices of those that come into question, the better ones first; the least loaded of a group is to be taken.

    Making a voice's conditioning anew costs little beside a stream that waits: no voice is worth a fuller replica by
    more than a quarter, or by one stream.
    """
    if not seats:
        return []
    least = min(seat.load for seat in seats)
    near = [index for index, seat in enumerate(seats) if seat.load <= least + max(1, int(_MORE * least))]
    groups = [[index for index in near if seats[index].has_voice is has] for has in (True, False)]
    return [group for group in groups if group]


class VoiceRouter(RequestRouter):
    """Ray Serve's side of `ranked`. Ray calls this interface alpha; 2.60 is what it was written for.

    It sees a call's arguments, and so the voice. Loads are those that this handle knows of. Where it does not know them
    all, Ray takes the least loaded of those that it does, and asks the others meanwhile.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if len(candidate_replicas) < 2:
            return [candidate_replicas]
        voice, seats = _voice(pending_request), []
        for replica in candidate_replicas:
            load = self.replica_queue_len_cache.get(replica.replica_id)
            if load is None:
                return [candidate_replicas]
            seats.append(Seat(load, voice in replica.routing_stats.get("voices", ())))
        return [[candidate_replicas[index] for index in group] for group in ranked(seats)]


def _voice(request: PendingRequest | None) -> str | None:
    arguments: Sequence[Any] = request.args if request is not None else ()
    return arguments[0].voice if arguments and isinstance(arguments[0], SpeechRequest) else None
