"""What is done to a running service."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil

from drills import slow_disk
from drills.belongings import upload
from loadtest.local_service import LocalService

Deed = Callable[[LocalService], None]
_UPDATE = """
import json, sys
import ray
from ray import serve
from deployments.app import build
from deployments.settings import ServiceSettings
address, settings = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
serve.run(build(ServiceSettings(**json.loads(settings))), name="chatterbox")
"""


_NOTICED_S = 3.0
_LOOK_S = 0.5
_STEP_S = 120.0
_PROVOKED_S = 60.0
_IDLE_S = 20.0
_ASLEEP_S = 180.0


class Skipped(Exception):
    """A drill that this machine cannot do, and why."""


@dataclass(frozen=True, slots=True)
class Harm:
    """One way to hurt it."""

    what: str
    do: Deed
    may_cut: bool = False
    """Streams of the victim may break off, visibly."""
    may_stay_away: bool = False
    """It does not come back by itself, nor should it."""
    before: Deed | None = None
    """Before the service starts. Raises Skipped."""
    after: Deed | None = None
    """Once it is well again: it raises AssertionError where something is not as it should be, and undoes the harm."""
    asked: bool = False
    """It is done only where it is named: the whole machine is touched."""
    calm: Deed | None = None
    """What is waited for before the first listener comes."""
    last: Deed | None = None
    """When nothing is looked at any more."""


def killed(deployment: str, signum: int = signal.SIGKILL) -> Deed:
    """A signal to a deployment's first replica."""
    return lambda service: service.replica(deployment).send_signal(signum)


def signalled(name: str, signum: int = signal.SIGKILL) -> Deed:
    """A signal to the first process with the name."""
    return lambda service: os.kill(service.processes(name)[0].pid, signum)


def restarted(service: LocalService) -> None:
    service.kill()
    service.start()


def updated(service: LocalService) -> None:
    """A rolling update by another process: the same application with another setting."""
    changed = service.settings | {"max_characters": 4000}
    command = [sys.executable, "-c", _UPDATE, service.ray_address(), json.dumps(changed)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=service.environment)


def out_of_memory(service: LocalService) -> None:
    """T3's replica may map nothing more, as where another program has taken the device's memory. Raises Skipped where
    what it has is enough for it."""
    if not hasattr(psutil.Process, "rlimit"):
        raise Skipped("Only Linux limits a process that runs.")
    victim = service.replica("T3")
    victim.rlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
    try:
        victim.wait(_PROVOKED_S)
    except psutil.TimeoutExpired as error:
        raise Skipped(f"The replica needed no more memory within {_PROVOKED_S:g} s.") from error


def headless(service: LocalService) -> None:
    """The head's own process (gcs_server) ends, and Ray with it; whoever supervises `serve run` starts it again."""
    signalled("gcs_server")(service)
    time.sleep(_NOTICED_S)
    restarted(service)


def voices_changed(service: LocalService) -> None:
    """A voice comes, speaks, gets another name and goes, while it speaks."""
    voice = upload(service.url, "Guest", 190.0).raise_for_status().json()["id"]
    body = {"input": "I am a guest here. " * 8, "voice": "Guest", "response_format": "pcm"}
    with httpx.stream("POST", f"{service.url}/v1/audio/speech", json=body, timeout=60) as answer:
        answer.raise_for_status()
        httpx.patch(f"{service.url}/v1/voices/{voice}", json={"name": "Gone"}, timeout=60).raise_for_status()
        httpx.delete(f"{service.url}/v1/voices/{voice}", timeout=60).raise_for_status()
        answer.read()
    refused = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60)
    assert refused.status_code == 404, refused.text


def slow_store(service: LocalService) -> None:
    """Voices lie where a file system keeps its users waiting: for now not at all."""
    slow_disk.install(service.folder)
    service.settings["voices_folder"] = f"slow://{service.folder / 'voices'}"
    paths = [str(service.folder), os.environ.get("PYTHONPATH", "")]
    service.environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), slow_disk.FOLDER: str(service.folder)}


def slowed(service: LocalService) -> None:
    slow_disk.wait(service.folder, 20.0)


def slow_store_is_said(service: LocalService) -> None:
    """An upload is 503 and says why; it is taken once the store is itself again."""
    refused = upload(service.url, "Later", 210.0)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable"), refused.text
    slow_disk.wait(service.folder, 0.0)
    time.sleep(_NOTICED_S)
    assert upload(service.url, "Later", 210.0).status_code == 201


def stepped(_: LocalService) -> None:
    """The machine's clock is set two minutes on, two back, and right again. Raises Skipped."""
    right = time.time() - time.monotonic()
    try:
        for step_s in (_STEP_S, -_STEP_S):
            time.clock_settime(time.CLOCK_REALTIME, right + time.monotonic() + step_s)
            time.sleep(_NOTICED_S)
    except PermissionError as error:
        raise Skipped("The clock cannot be set here (it takes root).") from error
    finally:
        with contextlib.suppress(PermissionError):
            time.clock_settime(time.CLOCK_REALTIME, right + time.monotonic())


def may_sleep(service: LocalService) -> None:
    """Both stages may sleep, soon."""
    replicas = {f"{stage}_replicas{bound}": n for stage in ("t3", "s3gen") for bound, n in (("", 0), ("_max", 1))}
    service.settings |= {
        **replicas,
        "scale_idle_s": _IDLE_S,
        "wake_wait_s": _IDLE_S - 1,
        "switches": {"s3gen": {"max_lead_s": _IDLE_S - 1}},
    }


def slept(service: LocalService) -> None:
    """Nobody speaks until both stages have slept for a while, with no process left, and /health was 200 all the time.
    Raises TimeoutError."""
    end, since = time.monotonic() + _ASLEEP_S, None
    while since is None or time.monotonic() < since + _IDLE_S:
        told = httpx.get(f"{service.url}/health", timeout=30).raise_for_status().json()
        sleep = len(told["live"].get("asleep", ())) == 2 and not any(map(service.processes, (":T3", ":S3Gen")))
        since = (since or time.monotonic()) if sleep else None
        if time.monotonic() > end:
            raise TimeoutError(f"It did not sleep within {_ASLEEP_S:g} s.")
        time.sleep(_LOOK_S)


def drained(service: LocalService) -> None:
    """Its streams end, then it does."""
    command = [sys.executable, "-m", "cli", "drain", "--address", service.ray_address()]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=service.environment)
    service.stop()


def small_disk(service: LocalService) -> None:
    folder = service.folder / "voices"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        raise Skipped("A small disk cannot be mounted here (it takes root).")


def filled(service: LocalService) -> None:
    with (service.folder / "voices" / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass


def full_disk_is_said(service: LocalService) -> None:
    """An upload is 503 and says why; with room it is taken."""
    refused = upload(service.url, "Later", 210.0)
    assert (refused.status_code, "No space" in refused.text) == (503, True), refused.text
    (service.folder / "voices" / "filler").unlink()
    assert upload(service.url, "Later", 210.0).status_code == 201


def unmounted(service: LocalService) -> None:
    subprocess.run(["umount", "-l", str(service.folder / "voices")], check=False)
