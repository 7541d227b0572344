"""A small soak on the real service, and what it would say of one that is not well."""

import time

import psutil
import pytest

from drills.listeners import Heard
from drills.soak import Plan, Seen, Soak
from tests.service import Service


def heard(outcome: str, begin: float = 0.0, end: float = 1.0) -> Heard:
    return Heard(begin, None, end, outcome, 24_000)  # type: ignore[arg-type]


def test_what_is_wrong_is_told() -> None:
    seen = Seen(
        idle=True, memory=[{"T3": 100 << 20}] * 4 + [{"T3": 200 << 20}] * 4, killed=[(0.5, "T3"), (5.0, "S3Gen")]
    )
    seen.heard = [heard("whole"), heard("cut"), heard("cut", 4.0, 6.0), heard("wrong")]
    told = seen.told()
    assert told["wrong"] == [
        "1 streams are wrong", "1 streams were cut when T3 died", "1 streams were cut when S3Gen died",
        "T3 grew by 100 MB",
    ]  # fmt: skip
    assert told["under_way_at_kills"] == {"T3": {"whole": 1, "cut": 1, "wrong": 1}, "S3Gen": {"cut": 1}}
    seen.heard, seen.memory, seen.idle = [heard("whole")], [{"T3": 1}], False
    assert seen.told()["wrong"] == ["places are still taken"]


@pytest.mark.service
def test_a_small_soak(service: Service) -> None:
    plan = Plan(streams=60, at_a_time=3, hang_ups=0.1, slow=0.05, kills=1 / 60)
    seen = Soak(service.url, plan, service.replica, lambda: psutil.Process().children(recursive=True)).run()
    told = seen.told()
    assert told["kills"] == {"T3": 1}
    assert told["outcomes"]["whole"] + told["outcomes"]["left"] == 60
    assert "places are still taken" not in told["wrong"]
    assert not [wrong for wrong in told["wrong"] if "streams" in wrong]
    service.wait_until_well()
    time.sleep(1.0)
