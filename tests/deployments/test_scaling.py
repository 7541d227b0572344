"""The policy under a recorded load, what it never does, and how Ray Serve asks it."""

import json
import math
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fleet_simulation
from benchmarks.fleet import outside
from benchmarks.fleet import scaling as ours
from benchmarks.fleet_simulation import CARRIES, PLACES, Policy, Simulation, oracle_s
from deployments import scaling
from deployments.load import Load
from deployments.scaling import NO_LISTENER_S, Figures, Limits, ScalingPolicy, ServePolicy

MOST = 80
COLD_STARTS_S = (10.0, 30.0, 90.0)


def day() -> fleet_simulation.Load:
    """See tests/data/make_voice_agents_day.py."""
    told = json.loads((Path(__file__).parents[1] / "data" / "voice_agents_day.json").read_text())
    come, lasts = told["come_in_each_second"], iter(told["lasts_s"])
    arrivals = [
        (second + index / count, float(next(lasts))) for second, count in enumerate(come) for index in range(count)
    ]
    return fleet_simulation.Load(arrivals, len(come), tuple(told["spike_s"]))


LOAD = day()


def by_requests(per_replica: float) -> Policy:
    """Ray Serve's default: streams of the last 30 s by what a replica is to have; up after 30 s, down after 600 s."""
    seen: deque[tuple[float, float]] = deque()
    since = {"up": math.inf, "down": math.inf}

    def decide(now: float, figures: list[Figures], ready: int, target: int) -> int:
        seen.append((now, sum(replica.running for replica in figures)))
        while seen[0][0] < now - 30:
            seen.popleft()
        wanted = max(1, min(MOST, math.ceil(sum(streams for _, streams in seen) / len(seen) / per_replica)))
        for way, is_so, delay_s in (("up", wanted > target, 30), ("down", wanted < target, 600)):
            since[way] = min(since[way], now) if is_so else math.inf
            if now - since[way] >= delay_s:
                since[way] = math.inf
                return wanted
        return target

    return decide


@pytest.mark.parametrize("cold_start_s", COLD_STARTS_S)
def test_a_spike_of_five_times_the_load(cold_start_s: float) -> None:
    """The bar: stalls, refusals and replica-hours."""
    outcome = Simulation(LOAD, ours(cold_start_s, MOST), cold_start_s, begin=2).run()
    assert outcome.admitted + len(outcome.refused_at) == len(LOAD.arrivals)
    assert outcome.stall_share < 0.001
    assert outcome.refused_at, "a spike that refuses nobody proves nothing"
    assert LOAD.spike_s is not None
    assert max(outcome.refused_at) <= LOAD.spike_s[0] + 60 + cold_start_s
    assert outside(LOAD, outcome, cold_start_s) < 0.0005 * len(LOAD.arrivals)  # by chance, before it began
    assert outcome.replica_s <= 1.3 * oracle_s(LOAD, cold_start_s)


def test_devices_that_slow_down_now_and_then_break_no_more_than_a_few() -> None:
    """Every replica for 20 s in about 500, to 70 %: fewer than it lets in then."""
    cold_start_s = 30.0
    outcome = Simulation(LOAD, ours(cold_start_s, MOST), cold_start_s, begin=2, slow=0.002).run()
    assert outcome.stall_share < 0.001
    undisturbed = Simulation(LOAD, ours(cold_start_s, MOST), cold_start_s, begin=2).run()
    assert len(outcome.refused_at) > len(undisturbed.refused_at)
    assert outside(LOAD, outcome, cold_start_s) < 0.001 * len(LOAD.arrivals)
    assert outcome.replica_s <= 1.3 * oracle_s(LOAD, cold_start_s)


@pytest.mark.parametrize(
    ("policy", "breaks"),
    [
        (lambda now, figures, ready, target: 10, "refusals"),
        (lambda now, figures, ready, target: 45, "hours"),
        (by_requests(CARRIES), "refusals"),
        (by_requests(2), "hours"),
    ],
    ids=["10", "45", "Ray's default, as many as a replica carries", "Ray's default, its own 2"],
)
def test_naive_policies_break_the_bar(policy: Policy, breaks: str) -> None:
    outcome = Simulation(LOAD, policy, 30.0, begin=policy(0.0, [], 0, 2)).run()
    if breaks == "hours":
        assert outcome.replica_s > 1.3 * oracle_s(LOAD, 30.0)
    else:
        assert outside(LOAD, outcome, 30.0) > 0.001 * len(LOAD.arrivals)


def replicas(streams: float, count: int, **more: float) -> list[Figures]:
    return [Figures(running=streams / count, places=PLACES, carries=CARRIES, **more) for _ in range(count)]


def after(
    streams: float, seconds: int, least: int = 0, most: int = MOST, begin: int = 1, cold_start_s: float = 30.0
) -> list[int]:
    """Replicas in each second of a load that does not change, where replicas come at once."""
    policy, target, seen = ScalingPolicy(Limits(least, most, 60.0, cold_start_s)), begin, []
    for second in range(seconds):
        figures = replicas(streams, target) if target else []
        queued = 0 if target else streams
        target = policy.decide(float(second), figures, target, target, queued).wanted
        seen.append(target)
    return seen


LIMITS = st.tuples(st.integers(0, 4), st.integers(1, 30)).map(lambda limits: (min(limits), max(limits)))


@given(st.lists(st.floats(0, 400), min_size=1, max_size=200), LIMITS, st.floats(1, 120))
def test_never_beyond_its_limits(loads: list[float], limits: tuple[int, int], cold_start_s: float) -> None:
    policy, target = ScalingPolicy(Limits(*limits, 30.0, cold_start_s)), limits[1]
    for second, streams in enumerate(loads):
        figures = replicas(streams, target, refused=streams % 3) if target else []
        target = policy.decide(float(second), figures, max(0, target - second % 3), target, streams).wanted
        assert limits[0] <= target <= limits[1]
        assert target or not streams


@settings(max_examples=30)
@given(st.floats(0, 400, allow_subnormal=False), st.integers(1, 40), st.floats(1, 120))
def test_a_load_that_does_not_change_makes_it_go_one_way(streams: float, begin: int, cold_start_s: float) -> None:
    seen = after(streams, 400, begin=begin, cold_start_s=cold_start_s)
    assert seen in (sorted(seen), sorted(seen, reverse=True))


@settings(max_examples=30)
@given(st.floats(0, 300), st.floats(0, 100), st.integers(1, 10))
def test_more_load_never_means_fewer_replicas(streams: float, more: float, begin: int) -> None:
    less, greater = after(streams, 100, begin=begin), after(streams + more, 100, begin=begin)
    assert all(few <= many for few, many in zip(less, greater, strict=True))


@given(st.integers(0, 1), st.floats(0, 3))
@settings(max_examples=20)
def test_it_sleeps_only_where_it_may_and_nobody_is_there(least: int, streams: float) -> None:
    seen = after(streams, 100, least=least)
    assert (seen[-1] == 0) == (least == 0 and streams == 0)
    assert all(seen[:60])  # not before idle_s


def test_who_is_asleep_wakes_for_one_and_does_not_sleep_while_it_starts() -> None:
    policy = ScalingPolicy(Limits(0, 3, 10.0, 30.0))
    assert policy.decide(0.0, [], 0, 0).wanted == policy.decide(20.0, [], 0, 0).wanted == 0
    assert policy.decide(21.0, [], 0, 0, queued=1).wanted == 1
    assert all(policy.decide(21.0 + second, [], 0, 1).wanted == 1 for second in range(1, 60))
    assert policy.cold_start_s == 30.0
    assert policy.decide(82.0, [Figures()], 1, 1).wanted == 1
    assert policy.cold_start_s == 60.0  # as it was seen


def test_listeners_about_to_run_dry_bring_a_replica_only_where_their_own_stage_is_at_fault() -> None:
    starved, slow = (replicas(10, 1, low_slack_s=0.2, busy=busy) for busy in (0.3, 0.95))
    calm = replicas(6, 1)
    assert ScalingPolicy(Limits(1, 9, 60.0, 30.0)).decide(0.0, starved, 1, 1).wanted == 2  # 10 and a reserve
    assert ScalingPolicy(Limits(1, 9, 60.0, 30.0)).decide(0.0, slow, 1, 1).wanted == 3
    assert ScalingPolicy(Limits(1, 9, 60.0, 30.0)).decide(0.0, calm, 1, 1).wanted == 1


def test_a_wait_in_the_queue_brings_a_replica_and_no_more_while_it_starts() -> None:
    policy, target = ScalingPolicy(Limits(1, 9, 60.0, 30.0)), 1
    waiting = [Figures(running=1, places=PLACES, waiting=1, wait_s=2.0)]
    for second in range(20):
        target = policy.decide(float(second), waiting, 1, target).wanted
    assert target == 2


class Engine:
    """Of two listeners."""

    running, waiting, places, carries, busy_seconds, admitted, refused = 2, 1, 16, None, 4.0, 5, 1

    def full(self) -> bool:
        return True

    def wait_s(self) -> float:
        return -0.5

    def slacks_s(self) -> list[float]:
        return [0.5, 90_000.0]


def context(points: dict[str, dict[str, float]], at: float, target: int) -> SimpleNamespace:
    """As Ray gives it: the newest of each replica's series last."""
    names = {name for told in points.values() for name in told}
    point = lambda value: [SimpleNamespace(timestamp=at - 1, value=-1.0), SimpleNamespace(timestamp=at, value=value)]  # noqa: E731
    raw = {name: {replica: point(told[name]) for replica, told in points.items()} for name in names}
    return SimpleNamespace(raw_metrics=raw, target_num_replicas=target, current_num_replicas=len(points))


def test_what_a_replica_tells_is_what_the_policy_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(Engine())
    load.turned_away(2)
    told = load.figures()
    assert (told["refused"], told["slack_s"], told["carries"], told["wait_s"]) == (3, 0.5, 0, 0.0)
    assert load.seat()["carries"] == 0
    seen: list[list[Figures]] = []
    policy = ServePolicy("S3Gen", least=1, most=4, idle_s=60.0, cold_start_s=30.0)
    decide = policy._policy.decide

    def spy(now: float, figures: list[Figures], ready: int, target: int) -> scaling.Decision:
        seen.append(figures)
        return decide(now, figures, ready, target)

    monkeypatch.setattr(policy._policy, "decide", spy)
    clock = [100.0]
    monkeypatch.setattr(scaling, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert policy(context({"a": told}, 1.0, 1))[0] == 1
    assert policy(context({"a": told}, 1.1, 3))[0] == 3  # not a second later: as it is
    clock[0] += 1
    policy(context({"a": {**told, "admitted": 9, "busy_s": 4.5}, "b": told}, 2.0, 1))
    first, second = seen
    assert (first[0].admitted, first[0].busy, first[0].low_slack_s) == (0, 0, 0.5)
    assert (second[0].admitted, second[0].busy, second[1].admitted) == (4, 0.5, 0)
    assert Figures().slack_s == NO_LISTENER_S


def test_ray_can_carry_it_where_the_project_is_not(tmp_path: object) -> None:
    """Its controller is a process that may have another folder and no path to this one."""
    from ray import cloudpickle
    from ray.serve.config import AutoscalingPolicy

    policy = AutoscalingPolicy(policy_function="deployments.scaling:ServePolicy")
    carried = policy.get_serialized_policy_def()
    assert carried is not None
    assert cloudpickle.loads(carried).__name__ == "ServePolicy"
    code = (
        "import pickle, sys, types; policy = pickle.loads(sys.stdin.buffer.read())('T3', 0, 2, 9.0, 9.0);"
        "print(policy(types.SimpleNamespace(raw_metrics={}, target_num_replicas=1, current_num_replicas=1))[0])"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", code], input=carried, cwd=str(tmp_path), capture_output=True)
    assert ran.stdout == b"1\n", ran.stderr
