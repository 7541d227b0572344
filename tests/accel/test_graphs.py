"""Which calls are captured, and that a replay reads what it is given."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chatterbox_engine.accel.graphs import Recurring
from tests.rerun import CPU, Rerun


def weighed(x: Tensor, mask: Tensor | None) -> Tensor:
    return 2 * x if mask is None else x * mask


CALLS = st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=30)


@given(CALLS, st.integers(1, 4))
def test_every_call_gives_what_the_function_gives(calls: list[tuple[int, bool, bool]], most: int) -> None:
    graphs = Rerun(CPU, True, most)
    twice = [Recurring(name, weighed, graphs) for name in ("one", "other")]
    made, expected = [], []
    for index, (length, masked, other) in enumerate(calls):
        x = torch.full((length,), float(index))
        mask = torch.arange(length) % 2 if masked else None
        made.append(twice[other](x, mask))
        expected.append(weighed(x, mask))
    assert all(torch.equal(*pair) for pair in zip(made, expected, strict=True))
    assert len(graphs) <= most


def test_a_shape_is_captured_when_it_comes_again() -> None:
    graphs = Rerun(CPU, True)
    function = Recurring("it", weighed, graphs)
    counts = []
    for length in (3, 4, 3, 3, 5, 4):
        function(torch.ones(length), None)
        counts.append((len(graphs), graphs.replays))
    assert counts == [(0, 0), (0, 0), (1, 1), (1, 2), (1, 2), (2, 3)]


def test_the_longest_unused_graph_goes() -> None:
    graphs = Rerun(CPU, True, most=2)
    function = Recurring("it", weighed, graphs)
    for length in (3, 3, 4, 4, 3, 5, 5):
        function(torch.ones(length), None)
    replays = graphs.replays
    function(torch.ones(3), None)
    assert graphs.replays == replays + 1
    assert len(graphs) == 2


def test_of_too_many_shapes_some_stay_captured() -> None:
    """However often they come round."""
    graphs = Rerun(CPU, True, most=3)
    function = Recurring("it", weighed, graphs)
    for _ in range(10):
        for length in range(1, 7):
            function(torch.ones(length), None)
    assert graphs.captures == 3
    assert graphs.replays == 9 * 3


def test_a_shape_that_comes_instead_of_another_takes_its_graph() -> None:
    graphs = Rerun(CPU, True, most=2)
    function = Recurring("it", weighed, graphs)
    for _ in range(4):
        for length in (1, 2):
            function(torch.ones(length), None)
    for _ in range(4):
        for length in (2, 3):
            function(torch.ones(length), None)
    assert graphs.captures == 3
    assert graphs.replays == 2 * 3 + 4 + 3


def test_where_nothing_is_captured_it_is_the_function() -> None:
    graphs = Rerun(CPU, False)
    function = Recurring("it", weighed, graphs)
    assert all(torch.equal(function(torch.ones(3), None), 2 * torch.ones(3)) for _ in range(3))
    assert not graphs.replays
