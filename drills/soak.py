"""python -m drills.soak: thousands of short streams, some left, some read slowly, while replicas are killed.

Every stream must be whole or visibly broken; those whose T3 or S3Gen replica died must be whole; memory and places must
stay as they were. A request that is refused or cut is asked again until it is whole, so that so many streams are. Exits
with 1 where something is not as it should be; the last line is JSON.
"""

import argparse
import itertools
import json
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from tqdm import tqdm

from drills.listeners import Heard, Manner, length, listen
from loadtest.local_service import LocalService
from loadtest.texts import TINY

SEEDS = range(3)
VICTIMS = ("T3", "S3Gen", "T3", "Ingress")
"""In turn."""
_RESUMED = ("T3", "S3Gen")
"""Another goes on for these where they die."""
_AGAIN_S = 0.2
_LOOK_EVERY = 50
"""Times in a run that memory is looked at."""
_DIFFERS = 0.3
"""Of its length: a T3 that goes on for another prefills what that one decoded, which rounds otherwise in bf16, so that
other tokens may follow."""
_GROWS_BYTES, _GROWS_SHARE = 32 << 20, 0.05
"""What a kind of process may grow by from the second quarter of a run to the last."""
_IDLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done; shares are of the streams."""

    streams: int = 20_000
    at_a_time: int = 6
    hang_ups: float = 0.01
    slow: float = 0.01
    kills: float = 0.001
    minutes: float = 1440.0
    """After which no further stream is begun."""


@dataclass
class Seen:
    """What happened."""

    heard: list[Heard] = field(default_factory=list)
    killed: list[tuple[float, str]] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)
    """Resident bytes by kind of process, from time to time."""
    tasks: list[int] = field(default_factory=list)
    """Of the stages' event loops, before and after."""
    idle: bool = False
    """No place was taken in the end."""

    def told(self) -> dict[str, Any]:
        """With what is wrong of it, in words."""
        kills = {name: self._at_kills(name) for name in dict.fromkeys(name for _, name in self.killed)}
        told = {
            "outcomes": dict(Counter(one.outcome for one in self.heard)),
            "kills": dict(Counter(name for _, name in self.killed)),
            "under_way_at_kills": kills,
            "growth_mb": {kind: round(grown / 2**20, 1) for kind, grown in self.growth().items()},
            "memory_mb": {kind: round(size / 2**20) for kind, size in self.memory[-1].items()},
            "tasks": self.tasks,
            "idle": self.idle,
        }
        return {**told, "wrong": self._wrong(kills)}

    def growth(self) -> dict[str, int]:
        """Of each kind of process: the median of the last quarter over that of the second."""
        quarter = max(1, len(self.memory) // 4)
        early, late = self.memory[quarter : 2 * quarter] or self.memory, self.memory[-quarter:]
        sizes = {
            kind: [[one[kind] for one in part if kind in one] for part in (early, late)]
            for kind in sorted(set().union(*early, *late))
        }
        return {
            kind: int(statistics.median(after) - statistics.median(before))
            for kind, (before, after) in sizes.items()
            if before and after
        }

    def _at_kills(self, victim: str) -> dict[str, int]:
        """What became of the streams that were under way when a replica of this kind was killed."""
        moments = [at for at, name in self.killed if name == victim]
        return dict(Counter(one.outcome for one in self.heard if any(one.begin <= at <= one.end for at in moments)))

    def _wrong(self, kills: dict[str, dict[str, int]]) -> list[str]:
        wrong = [f"{count} streams are wrong"] if (count := sum(one.outcome == "wrong" for one in self.heard)) else []
        for stage in _RESUMED:
            if cut := kills.get(stage, {}).get("cut", 0):
                wrong.append(f"{cut} streams were cut when {stage} died")
        for kind, grown in self.growth().items():
            if grown > _GROWS_BYTES + _GROWS_SHARE * self.memory[0].get(kind, 0):
                wrong.append(f"{kind} grew by {grown / 2**20:.0f} MB")
        return wrong if self.idle else [*wrong, "places are still taken"]


class Soak:
    """One run against a service whose processes may be looked at and killed."""

    def __init__(
        self,
        url: str,
        plan: Plan,
        replica: Callable[[str], psutil.Process],
        processes: Callable[[], list[psutil.Process]],
        seed: int = 0,
    ) -> None:
        self._url, self._plan = url, plan
        self._replica, self._processes = replica, processes
        self._chosen = random.Random(seed)
        self._lock = threading.Lock()
        self._next = itertools.count()
        self.seen = Seen()

    def run(self) -> Seen:
        """Raises RuntimeError where the service is not well before it begins."""
        self._wanted = {(text, seed): length(self._url, text, seed) for text in TINY for seed in SEEDS}
        self.seen.tasks.append(self._live()[1])
        self._end = time.monotonic() + 60 * self._plan.minutes
        with tqdm(total=self._plan.streams, unit="stream", disable=None) as bar:
            threads = [threading.Thread(target=self._work, args=(bar,)) for _ in range(self._plan.at_a_time)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._look()
        self.seen.idle, tasks = self._settled()
        self.seen.tasks.append(tasks)
        return self.seen

    def _work(self, bar: Any) -> None:
        while (number := next(self._next)) < self._plan.streams and time.monotonic() < self._end:
            if number % max(1, self._plan.streams // _LOOK_EVERY) == 0:
                self._look()
            between = round(1 / self._plan.kills) if self._plan.kills else 0
            if between and number % between == between // 2:
                self._kill(number // between)
            self._stream(number)
            bar.update()

    def _stream(self, number: int) -> None:
        with self._lock:
            text, seed = self._chosen.choice(TINY), self._chosen.choice(SEEDS)
            draw = self._chosen.random()
        manner: Manner = "plain"
        if draw < self._plan.hang_ups + self._plan.slow:
            manner = "hangs up" if draw < self._plan.hang_ups else "slow"
        while True:
            heard = listen(self._url, text, self._wanted[text, seed], seed=seed, manner=manner)
            if heard.outcome == "wrong" and self._drawn_anew(heard, self._wanted[text, seed]):
                heard = Heard(heard.begin, heard.first, heard.end, "whole", heard.samples)
            self.seen.heard.append(heard)
            if heard.outcome not in ("cut", "refused", "unreachable"):
                return
            time.sleep(_AGAIN_S)

    def _drawn_anew(self, heard: Heard, wanted: int) -> bool:
        """Another T3 went on with it, or another S3Gen asked T3 to."""
        died = any(name in _RESUMED and heard.begin <= at <= heard.end for at, name in self.seen.killed)
        return died and abs(heard.samples - wanted) <= _DIFFERS * wanted

    def _kill(self, turn: int) -> None:
        victim = VICTIMS[turn % len(VICTIMS)]
        try:
            process = self._replica(victim)
        except (IndexError, AssertionError):  # it has not come back from the one before
            return
        self.seen.killed.append((time.monotonic(), victim))
        process.send_signal(signal.SIGKILL)

    def _look(self) -> None:
        memory: Counter[str] = Counter()
        for process in self._processes():
            try:
                memory[kind(process)] += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        with self._lock:
            self.seen.memory.append(dict(memory))

    def _settled(self) -> tuple[bool, int]:
        """Whether every place came free, and the tasks there are then."""
        end = time.monotonic() + _IDLE_S
        while (live := self._live())[0] and time.monotonic() < end:
            time.sleep(0.5)
        return not live[0], live[1]

    def _live(self) -> tuple[int, int]:
        """Places that are taken, and tasks of the stages' event loops."""
        live = httpx.get(f"{self._url}/health", timeout=30).raise_for_status().json()["live"]
        taken = live["ingress"] + live["t3"]["running"] + live["t3"]["waiting"] + live["s3gen"]["running"]
        return taken, live["t3"]["tasks"] + live["s3gen"]["tasks"]


def kind(process: psutil.Process) -> str:
    """T3, S3Gen, ..., ProxyActor, raylet, ...: what a process of the service is."""
    command = " ".join(process.cmdline())
    if "has not stirred" in command:
        return "watchdogs"
    if "ServeReplica:chatterbox:" in command:
        return command.partition("ServeReplica:chatterbox:")[2].split()[0].partition("#")[0]
    known = ("ProxyActor", "ServeController", "gcs_server", "raylet/raylet", "ray.serve.scripts", "dashboard")
    return next((name for name in known if name in command), "others")


def main() -> None:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m drills.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streams", type=int, default=plan.streams)
    parser.add_argument("--at-a-time", type=int, default=plan.at_a_time)
    for name in ("hang_ups", "slow", "kills", "minutes"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(plan, name))
    given = vars(parser.parse_args())
    model = given.pop("model")
    begin = time.monotonic()
    with LocalService(model=model, device="cpu") as service:
        started_s = time.monotonic() - begin
        told = Soak(service.url, Plan(**given), service.replica, service.processes).run().told()
    times = {"start_s": round(started_s), "took_s": round(time.monotonic() - begin)}
    print(json.dumps({"model": model, **given, **times, **told}))
    sys.exit(bool(told["wrong"]))


if __name__ == "__main__":
    main()
