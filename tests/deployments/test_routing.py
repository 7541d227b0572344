"""Which replica a stream goes to."""

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.types import SamplingParams, SpeechRequest
from deployments.routing import Seat, VoiceRouter, ranked

SEATS = st.lists(st.builds(Seat, st.integers(0, 100), st.booleans()), min_size=1, max_size=20)


@given(SEATS)
def test_nobody_goes_to_a_replica_much_fuller_than_the_least_full(seats: list[Seat]) -> None:
    least = min(seat.load for seat in seats)
    groups = ranked(seats)
    assert groups
    assert all(groups)
    named = [index for group in groups for index in group]
    assert len(set(named)) == len(named)
    assert all(seats[index].load <= least + max(1, least / 4) for index in named)
    assert {index for index, seat in enumerate(seats) if seat.load == least} <= set(named)


@given(SEATS)
def test_of_those_the_ones_with_the_voice_come_first(seats: list[Seat]) -> None:
    has = [{seats[index].has_voice for index in group} for group in ranked(seats)]
    assert has in ([{True}], [{False}], [{True}, {False}])


def choose(loads: list[int | None], voices: list[list[str]], voice: str) -> list[list[str]]:
    """Names of the replicas that the router gives Ray, which are a, b, c ..."""
    names = "abcdefgh"[: len(loads)]
    router: Any = object.__new__(VoiceRouter)
    router._replica_queue_len_cache = dict(zip(names, loads, strict=True))
    replicas: Any = [
        SimpleNamespace(replica_id=name, routing_stats={"voices": here})
        for name, here in zip(names, voices, strict=True)
    ]
    request: Any = SimpleNamespace(args=(SpeechRequest("Hello.", voice, SamplingParams(), "en"), (25,)))
    groups = asyncio.run(router.choose_replicas(replicas, request))
    return [[replica.replica_id for replica in group] for group in groups]


def test_the_router_sees_the_voice_of_a_call() -> None:
    assert choose([3, 3, 9], [[], ["anna"], ["anna"]], "anna") == [["b"], ["a"]]
    assert choose([3, 3, 9], [[], ["anna"], ["anna"]], "ben") == [["a", "b"]]


def test_where_it_does_not_know_a_load_ray_looks() -> None:
    assert choose([3, None], [["anna"], []], "anna") == [["a", "b"]]
    assert choose([None], [[]], "anna") == [["a"]]
