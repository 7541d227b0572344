"""Replicas come with the load and leave after it, on a running service; who sleeps is woken."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.handle import DeploymentHandle

from chatterbox_engine.errors import ModelUnavailable, Overloaded
from deployments import app, fleet
from deployments.admission import Gate
from deployments.app import Place
from deployments.fleet import Count, Fleet, followed, places
from deployments.metrics import IngressMetrics
from deployments.runtime import Runtime
from deployments.s3gen import S3Gen
from deployments.settings import ServiceSettings
from deployments.t3 import T3
from deployments.tracing import Tracer
from tests.deployments.replica import replica
from tests.service import Service

TEXT = " ".join(f"Sentence number {i} is here to be spoken." for i in range(10))
EACH = 6
NAME = "scaled"

COUNTS = st.builds(Count, st.integers(0, 20), st.integers(0, 20))


@given(COUNTS, COUNTS)
def test_places_follow_the_lesser_stage(t3: Count, s3gen: Count) -> None:
    here = places(EACH, {"t3": t3, "s3gen": s3gen})
    assert EACH <= here <= EACH * max(1, s3gen.ready)
    if not t3.coming:
        assert here == EACH * max(1, s3gen.ready)
    fewer = Count(max(0, t3.ready - 1), t3.coming + 1)
    assert places(EACH, {"t3": fewer, "s3gen": s3gen}) <= here


def test_places_of_stages_that_wait_for_replicas() -> None:
    assert places(10, {"t3": Count(1, 4), "s3gen": Count(3, 2)}) == 10
    assert places(10, {"t3": Count(4, 1), "s3gen": Count(5, 0)}) == 40
    assert places(10, {"t3": Count(1), "s3gen": Count(3)}) == 30
    assert places(10, {"s3gen": Count(0, 1)}) == 10


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=2, max_size=6))
def test_no_place_is_taken_away_while_no_replica_goes(looks: list[tuple[Count, Count]]) -> None:
    let_in, before = 0, dict[Any, Count]()
    for t3, s3gen in looks:
        counts: dict[Any, Count] = {"t3": t3, "s3gen": s3gen}
        now = followed(let_in, EACH, before, counts)
        assert places(EACH, counts) <= now <= EACH * max(1, s3gen.ready)
        if any(counts[stage].ready < count.ready for stage, count in before.items()):
            assert now == places(EACH, counts)
        elif s3gen.ready:
            assert now >= let_in
        let_in, before = now, counts


class Handle:
    """A stage's handle: calls wait until the stage is awake."""

    def __init__(self, deployment_name: str) -> None:
        self.deployment_name = deployment_name
        self.ready = asyncio.Event()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def options(self, method_name: str) -> SimpleNamespace:
        async def remote(*arguments: Any) -> None:
            self.calls.append((method_name, arguments))
            await self.ready.wait()

        return SimpleNamespace(remote=remote)


def state(ready: int, coming: int = 0) -> SimpleNamespace:
    return SimpleNamespace(replica_states={"RUNNING": ready, "STARTING": coming, "STOPPING": 3})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """What Serve says of the deployments."""
    told = {"T3": state(1), "S3Gen": state(1)}
    status = SimpleNamespace(applications={NAME: SimpleNamespace(deployments=told)})
    context = SimpleNamespace(app_name=NAME)
    serve = SimpleNamespace(status=lambda: status, get_replica_context=lambda: context)
    monkeypatch.setattr(fleet, "serve", serve)
    return told


def made(wake_wait_s: float = 60.0) -> tuple[Fleet, Gate, dict[Any, Any]]:
    """A fleet whose looks the test makes."""
    settings = ServiceSettings(
        wake_wait_s=wake_wait_s, t3_replicas=0, t3_replicas_max=4, s3gen_replicas=0, s3gen_replicas_max=4
    )
    gate, handles = Gate(16, IngressMetrics(), Tracer("ingress", None)), {"t3": Handle("T3"), "s3gen": Handle("S3Gen")}
    fleet = Fleet(settings, handles, gate)  # type: ignore[arg-type]
    assert fleet._watching is not None
    fleet._watching.cancel()
    return fleet, gate, handles


def entered(gate: Gate) -> list[Any]:
    """Tickets of as many streams as it lets in."""
    tickets = []
    with contextlib.suppress(Overloaded):
        while True:
            tickets.append(gate.enter())
    return tickets


def test_the_gate_follows_and_the_stages_hear_who_was_turned_away(stages: dict[str, SimpleNamespace]) -> None:
    async def run() -> None:
        fleet, gate, handles = made()
        for handle in handles.values():
            handle.ready.set()
        await fleet._look()
        tickets = entered(gate)
        assert len(tickets) == 16
        stages["S3Gen"] = state(3)
        await fleet._look()
        assert [handle.calls for handle in handles.values()] == [[("turned_away", (1,))]] * 2
        more = entered(gate)
        assert len(tickets) + len(more) == 48
        stages["S3Gen"] = state(1)
        await fleet._look()
        assert entered(gate) == []  # those who are in stay
        del tickets, more
        assert len(entered(gate)) == 16

    asyncio.run(run())


def test_a_request_wakes_all_who_sleep_once_and_waits(stages: dict[str, SimpleNamespace]) -> None:
    async def run() -> None:
        stages.update(T3=state(0), S3Gen=state(0))
        fleet, gate, handles = made()
        await fleet._look()
        assert set(fleet.asleep) == {"t3", "s3gen"}
        waiting = [asyncio.create_task(fleet.awake()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert [handle.calls for handle in handles.values()] == [[("identities", ())]] * 2
        assert not any(task.done() for task in waiting)
        for handle in handles.values():
            handle.ready.set()
        await asyncio.gather(*waiting)
        assert len(entered(gate)) == 16

    asyncio.run(run())


def test_nobody_is_asked_who_might_sleep_but_while_streams_are_live(stages: dict[str, SimpleNamespace]) -> None:
    async def run() -> None:
        fleet, _, handles = made()
        for t3, s3gen, resting, live in (
            (state(1), state(1), False, ["t3", "s3gen"]),
            (state(0, coming=1), state(1), False, ["s3gen"]),
            (state(1), state(0), True, ["t3"]),
            (state(0), state(0), True, []),
        ):
            stages.update(T3=t3, S3Gen=s3gen)
            await fleet._look()
            assert fleet.resting == resting
            assert fleet.to_ask(live=0) == []
            assert fleet.to_ask(live=1) == [handles[stage] for stage in live]
        one_that_never_sleeps = ServiceSettings(t3_replicas=0, t3_replicas_max=2)
        stays = Fleet(one_that_never_sleeps, handles, Gate(1, IngressMetrics(), Tracer("ingress", None)))
        assert stays.to_ask(live=0) == [handles["s3gen"]]
        assert stays._watching is not None
        stays._watching.cancel()

    asyncio.run(run())


def test_who_waits_too_long_is_told_to_come_back_and_it_wakes_all_the_same(stages: dict[str, SimpleNamespace]) -> None:
    async def run() -> None:
        stages.update(T3=state(0))
        fleet, _, handles = made(wake_wait_s=0.01)
        await fleet._look()
        assert fleet.asleep == ("t3",)
        with pytest.raises(ModelUnavailable, match="asleep"):
            await fleet.awake()
        assert fleet._waking is not None
        assert not fleet._waking.done()
        assert handles["s3gen"].calls == []
        handles["t3"].ready.set()
        await fleet.awake()

    asyncio.run(run())


@pytest.mark.parametrize("layout", ["split", "colocated"])
def test_a_replica_is_warm_before_serve_sends_it_a_stream(layout: Any) -> None:
    """Serve routes to a replica when its `__init__` has returned."""

    async def run() -> None:
        settings = ServiceSettings(model="dummy:tiny", device="cpu", layout=layout)
        runtime, voices = Runtime("cpu", 1, "a test"), cast(DeploymentHandle, None)
        t3 = replica(T3, settings, runtime, voices) if layout == "split" else None
        s3gen = replica(S3Gen, settings, runtime, voices, t3)
        talker = t3._talker if t3 is not None else s3gen._talker
        assert talker._stage.engine.tokens > 0
        assert s3gen._stage.engine.samples > 0
        told = await s3gen.record_autoscaling_stats()
        assert (told["running"], told["waiting"], told["refused"]) == (0, 0, 0)
        seat = await s3gen.record_routing_stats()
        assert seat["voices"] == []
        assert seat["carries"] == told["places"] > 0
        assert time.time() - 60 < seat["began"] < time.time()

    threads = torch.get_num_threads()
    try:
        asyncio.run(run())
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def scaled(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A second application beside the session's, which takes no cores of Ray's: its address."""
    from ray import serve

    monkeypatch.setattr(app, "place", lambda *_: Place({"num_cpus": 0}, {"num_cpus": 0}, Runtime("cpu", 1, "a test")))
    scales = ServiceSettings(
        model="dummy:tiny",
        device="cpu",
        s3gen_replicas_max=2,
        scale_idle_s=4.0,
        cold_start_s=3.0,
        voices_folder=str(tmp_path / "voices"),
        jobs_folder=tmp_path / "jobs",
        switches={"s3gen": {"max_streams": EACH, "admission": "places", "hurry_s": None, "max_lead_s": 3.0}},
    )
    serve.run(app.build(scales), name=NAME, route_prefix="/scaled", logging_config={"log_level": "WARNING"})
    yield f"{service.url}/scaled"
    serve.delete(NAME)


def ready(deployment: str) -> int:
    from ray import serve

    states = serve.status().applications[NAME].deployments[deployment].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def wait_for(deployment: str, count: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while ready(deployment) != count:
        assert time.monotonic() < end, f"{deployment} has {ready(deployment)} replicas"
        time.sleep(0.2)


def speak(url: str) -> tuple[int, int]:
    """Status and bytes; a body that breaks off raises."""
    body = {"input": TEXT, "seed": 1, "response_format": "pcm"}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=120)
    return answer.status_code, len(answer.content)


@pytest.mark.slow  # minutes: a second service, and one more replica of it
@pytest.mark.service
def test_replicas_come_with_the_load_and_leave_after_it(scaled: str) -> None:
    with ThreadPoolExecutor(EACH + 1) as pool:
        first = [pool.submit(speak, scaled) for _ in range(EACH)]
        wait_for("S3Gen", 2)
        end = time.monotonic() + 60
        more: list[Any] = []
        while (live := httpx.get(f"{scaled}/health", timeout=30).json()["live"]["ingress"]) <= EACH:
            assert time.monotonic() < end, live  # one engine takes EACH: the other has the rest
            if sum(not answer.done() for answer in more) <= EACH:
                more.append(pool.submit(speak, scaled))
            time.sleep(0.5)
        answers = [answer.result() for answer in (*first, *more)]
        answers = [answer for answer in answers if answer[0] != 429]  # before the gate knew
        late = pool.submit(speak, scaled)  # while one of the two leaves
        wait_for("S3Gen", 1)
        answers.append(late.result())
    assert {status for status, _ in answers} == {200}
    assert len({size for _, size in answers}) == 1
