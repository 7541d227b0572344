"""python -m drills: hurt a service of one's own, each way once, and tell what its clients saw.

For each: what became of the requests under way when it was hurt, and of those until it was well again; seconds until a
request was served whole again, and how long a start of the same model takes; what was lost of what it keeps. Exits with
1 where a listener was told that a part was the whole, where streams broke that should not, or where something was lost.
The last line is JSON. A job under kills is `python -m drills.job`; barge-in is `python -m loadtest.barge_in`.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import Any

import httpx
from tqdm import tqdm

from drills import harm as harms
from drills.belongings import Belongings
from drills.harm import Harm, Skipped, killed, signalled
from drills.listeners import Listeners
from loadtest.local_service import LocalService

HARMS = {
    "t3": Harm("kill -9 of a T3 replica", killed("T3")),
    "s3gen": Harm("kill -9 of an S3Gen replica", killed("S3Gen")),
    "voices": Harm("kill -9 of the replica of voices", killed("Voices")),
    "jobs": Harm("kill -9 of the replica of jobs", killed("Jobs")),
    "ingress": Harm("kill -9 of the ingress", killed("Ingress"), may_cut=True),
    "proxy": Harm("kill -9 of Ray Serve's proxy", signalled("ray::ProxyActor"), may_cut=True),
    "controller": Harm("kill -9 of Ray Serve's controller", signalled("ray::ServeController")),
    "head": Harm("kill -9 of Ray's head, and a new start", harms.headless, may_cut=True),
    "t3-hangs": Harm("a T3 replica hangs (SIGSTOP)", killed("T3", signal.SIGSTOP)),
    "s3gen-hangs": Harm("an S3Gen replica hangs (SIGSTOP)", killed("S3Gen", signal.SIGSTOP)),
    "memory": Harm("T3's device is out of memory", harms.out_of_memory),
    "disk": Harm(
        "the disk under the voices is full",
        harms.filled,
        before=harms.small_disk,
        after=harms.full_disk_is_said,
        last=harms.unmounted,
    ),
    "store": Harm(
        "the store of voices takes 20 s for each call",
        harms.slowed,
        before=harms.slow_store,
        after=harms.slow_store_is_said,
    ),
    "clock": Harm("the machine's clock steps two minutes on and four back", harms.stepped, asked=True),
    "update": Harm("a rolling update of a setting", harms.updated),
    "guests": Harm("a voice comes, is renamed and goes while it speaks", harms.voices_changed),
    "asleep": Harm("both stages sleep until listeners come", lambda _: None, before=harms.may_sleep, calm=harms.slept),
    "power": Harm("kill -9 of everything, and a new start", harms.restarted, may_cut=True),
    "drain": Harm("`cli drain`, and the end of the service", harms.drained, may_stay_away=True),
    "sigterm": Harm("SIGTERM: the end of the service", lambda service: service.stop(), may_stay_away=True),
    "sigint": Harm("SIGINT: the end of the service", lambda service: service.stop(signal.SIGINT), may_stay_away=True),
}
_FAILED = (AssertionError, LookupError, OSError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError)
"""What one drill may end with; the others are done all the same."""
_CALM_S = 4.0
_BACK_S = 180.0


def drilled(harm: Harm, listeners: int) -> dict[str, Any]:
    """One harm to a service of its own. Raises Skipped."""
    service = LocalService(model="dummy:tiny", device="cpu")
    if harm.before is not None:
        harm.before(service)
    begin = time.monotonic()
    with service, contextlib.ExitStack() as last:
        if harm.last is not None:
            last.callback(harm.last, service)
        started_s = time.monotonic() - begin
        crowd, belongings = Listeners(service.url, listeners), Belongings(service.url)
        if harm.calm is not None:
            harm.calm(service)
        with crowd.listening():
            time.sleep(0.0 if harm.calm else _CALM_S)
            hurt = time.monotonic()
            harm.do(service)
            back = None if harm.may_stay_away else until_served(service, hurt)
            if harm.after is not None:
                harm.after(service)
            time.sleep(0.0 if harm.may_stay_away else _CALM_S)
        lost = [] if harm.may_stay_away else belongings.lost()
    told = {"under_way": crowd.outcomes(hurt, hurt), "until_well": crowd.outcomes(hurt, back or hurt)}
    wrong = crowd.outcomes().get("wrong", 0)
    broke = not harm.may_cut and told["until_well"].get("cut", 0)
    times = {"back_s": back and round(back - hurt, 1), "start_s": round(started_s, 1)}
    return {**told, "wrong": wrong, **times, "lost": lost, "as_it_should": not (wrong or broke or lost)}


def until_served(service: LocalService, hurt: float) -> float:
    """When a request that came after the harm was first served whole. Raises TimeoutError."""
    while time.monotonic() < hurt + _BACK_S:
        try:
            body = {"input": "Are you there?", "response_format": "pcm"}
            if httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60).status_code == 200:
                return time.monotonic()
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"No request was served within {_BACK_S:g} s of the harm.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m drills", description=__doc__.partition("\n")[0] if __doc__ else "")
    usual = [name for name, harm in HARMS.items() if not harm.asked]
    asked = ", ".join(sorted(set(HARMS) - set(usual)))
    parser.add_argument("harms", nargs="*", metavar="HARM", help=f"of {', '.join(usual)} (default: all); {asked}")
    parser.add_argument("--listeners", type=int, default=4)
    given = parser.parse_args()
    if unknown := set(given.harms) - set(HARMS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(HARMS)}")
    told: dict[str, Any] = {}
    for name in tqdm(given.harms or usual, unit="drill", disable=None):
        try:
            told[name] = drilled(HARMS[name], given.listeners)
        except Skipped as why:
            told[name] = {"skipped": str(why)}
        except _FAILED as error:
            told[name] = {"failed": f"{type(error).__name__}: {error}", "as_it_should": False}
        tqdm.write(f"{name}: {HARMS[name].what}: {told[name]}", file=sys.stderr)
    print(json.dumps(told))
    sys.exit(any(not one.get("as_it_should", True) for one in told.values()))


if __name__ == "__main__":
    main()
