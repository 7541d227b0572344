"""Turns, medians, spreads, ratios."""

import itertools

import pytest
import torch

from benchmarks.measure import Measured, Spread, in_turns, ratio, seconds, spread


def test_variants_take_turns_and_the_warm_up_is_not_kept() -> None:
    order: list[str] = []
    clock = itertools.count()

    def variant(name: str) -> Measured:
        order.append(name)
        return {"tick": next(clock)}

    rounds = in_turns({name: lambda name=name: variant(name) for name in "ab"}, 3, warm_up=1)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert [measured["tick"] for measured in rounds["a"]] == [2, 5, 6]
    assert spread(rounds["b"], "tick") == Spread(4, 3, 7)


def test_a_ratio_is_made_round_by_round() -> None:
    own: list[Measured] = [{"s": 2}, {"s": 30}, {"s": 4}]
    base: list[Measured] = [{"s": 1}, {"s": 10}, {"s": 1}]
    assert ratio(own, base, "s") == Spread(3, 2, 4)
    with pytest.raises(ValueError, match="shorter"):
        ratio(own, base[:2], "s")


def test_spreads() -> None:
    assert Spread.of([3, 1, 2]).as_dict() == {"median": 2, "min": 1, "max": 3}
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_seconds_run_the_call_once() -> None:
    calls: list[int] = []
    assert seconds(lambda: calls.append(1), torch.device("cpu")) >= 0
    assert calls == [1]
