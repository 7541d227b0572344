"""T3's scheduler: rows stay side by side, prompts share a step's budget, nobody is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.errors import Overloaded
from chatterbox_engine.t3.scheduler import Scheduler, Sequence, grouped

BUDGET = 32
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 2), st.integers(1, 200)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 10), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_invariants_under_any_order_of_arrivals_steps_and_departures(actions: list[tuple[str, int, int]]) -> None:
    scheduler = Scheduler(max_streams=4, prefill_positions=BUDGET, max_waiting=100)
    contents: dict[int, Sequence] = {}  # what lies in each row of the cache
    for action, a, b in actions:
        if action == "submit":
            scheduler.submit(Sequence(a, b))
        elif action == "release":
            everyone = [*scheduler.running, *scheduler.waiting]
            if everyone:
                gone = everyone[a % len(everyone)]
                for source, target, _ in scheduler.release(gone):
                    contents[target] = contents[source]
                assert gone not in scheduler.running
                assert gone not in scheduler.waiting
        else:
            for sequence in scheduler.admit():
                for row in sequence.rows:
                    contents[row] = sequence
            decoding = [s for s in scheduler.running if not s.prefilling]
            plan = scheduler.prefill()
            if decoding:
                assert sum(count * s.width for s, count in plan) <= BUDGET + 2  # a last part is never one alone
            else:
                assert {s for s, _ in plan} == {s for s in scheduler.running if s.prefilling}
            assert bool(plan) == any(s.prefilling for s in scheduler.running)
            for sequence, count in plan:
                left = sequence.prompt_length - sequence.prefilled
                assert 0 < count <= left
                assert left - count != 1
                sequence.prefilled += count
            for sequence in decoding:
                sequence.steps += 1
        assert len(scheduler.running) <= 4
        rows = sorted(row for s in scheduler.running for row in s.rows)
        assert rows == list(range(scheduler.rows))
        assert len({s.slot for s in scheduler.running} & set(range(4))) == len(scheduler.running)
        for sequence in scheduler.running:
            assert len(sequence.rows) == sequence.width
            assert all(contents[row] is sequence for row in sequence.rows)


def test_first_come_first_served() -> None:
    scheduler = Scheduler(max_streams=2, prefill_positions=BUDGET, max_waiting=3)
    sequences = [Sequence(2, 10) for _ in range(3)]
    for sequence in sequences:
        scheduler.submit(sequence)
    assert scheduler.admit() == sequences[:2]
    scheduler.release(sequences[0])
    assert scheduler.admit() == sequences[2:]


def test_a_full_queue_refuses() -> None:
    scheduler = Scheduler(max_streams=1, prefill_positions=BUDGET, max_waiting=1)
    scheduler.submit(Sequence(1, 1))
    with pytest.raises(Overloaded):
        scheduler.submit(Sequence(1, 1))


@given(st.lists(st.sampled_from((0.0, 1.0, 2.5)), min_size=1, max_size=12))
def test_who_runs_dry_first_is_let_in_first_and_of_those_alike_who_came_first(dues: list[float]) -> None:
    scheduler = Scheduler(1, 64, 100)
    sequences = [Sequence(1, 4, due=due) for due in dues]
    for sequence in sequences:
        scheduler.submit(sequence)
    admitted = []
    while scheduler.waiting:
        (one,) = scheduler.admit()
        admitted.append(one)
        scheduler.release(one)
    assert [id(one) for one in admitted] == [id(one) for one in sorted(sequences, key=lambda one: one.due)]


@given(sizes=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 90)), max_size=20), most=st.integers(1, 400))
def test_groups_are_the_plan_in_its_order_and_no_larger_than_they_must_be(
    sizes: list[tuple[int, int]], most: int
) -> None:
    plan = [(Sequence(width, count), count) for width, count in sizes]
    groups = grouped(plan, most)
    assert [item for group in groups for item in group] == plan
    wanted = [[sequence.width * count for sequence, count in group] for group in groups]
    assert all(len(group) == 1 or sum(group) <= most for group in wanted)
    assert all(sum(group) + following[0] > most for group, following in pairwise(wanted))
