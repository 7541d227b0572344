"""Which replica a stream goes to."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.types import SamplingParams, SpeechRequest
from deployments.routing import Seat, VoiceRouter, enough, ranked
from deployments.scaling import RESERVE

SEATS = st.lists(
    st.builds(Seat, st.integers(0, 20), st.booleans(), st.integers(1, 16), st.integers(0, 30)), min_size=1, max_size=20
)


def taken(seats: list[Seat], least: int) -> list[int]:
    """The first groups: all but those that are there in case that no other answers."""
    (*groups, others) = ranked(seats, least)
    first = [index for group in groups for index in group]
    return first or others


@given(SEATS, st.integers(1, 20))
def test_everybody_is_named_once(seats: list[Seat], least: int) -> None:
    groups = ranked(seats, least)
    assert all(groups)
    assert sorted(index for group in groups for index in group) == list(range(len(seats)))


@given(SEATS)
def test_where_all_are_wanted_nobody_goes_to_a_replica_much_fuller_than_the_least_full(seats: list[Seat]) -> None:
    free = [seat.load for seat in seats if seat.load < seat.carries] or [seat.load for seat in seats]
    first = ranked(seats, least=len(seats))[0]
    assert all(seats[index].load <= min(free) + max(1, min(free) / 4) for index in first)


@given(SEATS, st.integers(1, 20))
def test_of_those_that_come_first_the_ones_with_the_voice_do(seats: list[Seat], least: int) -> None:
    groups = ranked(seats, least)
    assert all(len({seats[index].has_voice for index in group}) == 1 for group in groups[:-1])
    assert [seats[group[0]].has_voice for group in groups[:-1]] in ([], [True], [False], [True, False])


@given(SEATS, st.integers(1, 20))
def test_who_started_last_is_spared_while_the_others_are_enough(seats: list[Seat], least: int) -> None:
    """And has no stream left when the policy lets it go, which Ray does with the last first."""
    by_age = sorted(seats, key=lambda seat: seat.began)
    kept = by_age[: enough(seats, least)]
    for index in taken(seats, least):
        assert seats[index] in kept or all(seat.load >= seat.carries for seat in kept)
        assert seats[index].load < seats[index].carries or all(seat.load >= seat.carries for seat in kept)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(1, 20))
def test_enough_are_as_many_as_the_policy_would_have(loads: list[int], least: int) -> None:
    """It wants no more for a load that stays as it is, beside its reserve."""
    count = enough([Seat(load, carries=12) for load in loads], least)
    streams = sum(loads) + 1
    assert count >= least
    assert (count - 1) * 12 < streams + RESERVE * math.sqrt(streams) <= count * 12 or count == least


class Told(SimpleNamespace):
    """A replica as Ray's router has it."""


def router(loads: dict[str, int | None], least: int = 1) -> Any:
    """Ray's side of it is what it knows of the loads, and whom it asks."""
    made: Any = object.__new__(VoiceRouter)
    made.initialize_state(least=least)
    made._replica_queue_len_cache = loads
    made.asked = []

    async def ask(replicas: list[Told], attempt: int) -> None:
        made.asked.append([replica.replica_id for replica in replicas])

    made._probe_queue_lens = ask
    return made


def choose(made: Any, voice: str, **told: dict[str, Any]) -> list[list[str]]:
    """Names of the replicas that the router gives Ray."""
    replicas: Any = [Told(replica_id=name, routing_stats=stats) for name, stats in told.items()]
    request: Any = SimpleNamespace(args=(SpeechRequest("Hello.", voice, SamplingParams(), "en"), (25,)))

    async def run() -> list[list[str]]:
        made._lazily_fetched_loop = asyncio.get_running_loop()
        groups = await made.choose_replicas(replicas, request)
        await asyncio.sleep(0)
        return [[replica.replica_id for replica in group] for group in groups]

    return asyncio.run(run())


ANNA: dict[str, Any] = {"voices": ["anna"]}
NONE: dict[str, Any] = {}


def test_the_router_sees_the_voice_of_a_call() -> None:
    loads: dict[str, int | None] = {"a": 3, "b": 3, "c": 9}
    assert choose(router(loads, 3), "anna", a=NONE, b=ANNA, c=ANNA) == [["b"], ["a"], ["c"]]
    assert choose(router(loads, 3), "ben", a=NONE, b=ANNA, c=ANNA) == [["a", "b"], ["c"]]


def test_a_replica_that_is_not_needed_is_spared() -> None:
    told = {name: {"began": began, "carries": 12} for name, began in (("a", 9.0), ("b", 5.0), ("c", 7.0))}
    assert choose(router({"a": 0, "b": 3, "c": 1}), "anna", **told) == [["b"], ["a", "c"]]
    assert choose(router({"a": 0, "b": 7, "c": 1}), "anna", **told) == [["c"], ["a", "b"]]  # two are wanted
    assert choose(router({"a": 0, "b": 3, "c": 1}, 3), "anna", **told) == [["a", "c"], ["b"]]  # all are there for good


def test_where_it_never_knew_a_load_ray_looks() -> None:
    assert choose(router({"a": 3, "b": None}), "anna", a=ANNA, b=NONE) == [["a", "b"]]
    assert choose(router({"a": None}), "anna", a=NONE) == [["a"]]


def test_a_load_that_ray_has_forgotten_is_as_it_was_until_it_is_told() -> None:
    told = {name: {"began": began, "carries": 12} for name, began in (("a", 5.0), ("b", 9.0))}
    made = router({"a": 3, "b": 5})
    assert choose(made, "anna", **told) == [["a"], ["b"]]
    made._replica_queue_len_cache = {"a": 9, "b": None}
    assert choose(made, "anna", **told) == [["b"], ["a"]]  # 9 and 5: both are wanted, and b has fewer
    assert made.asked == [["b"]]
    made._replica_queue_len_cache = {"a": 4, "b": 0}
    assert choose(made, "anna", **told) == [["a"], ["b"]]
    assert choose(made, "anna", a=told["a"], c=NONE) == [["a", "c"]]
    assert "b" not in made._loads
