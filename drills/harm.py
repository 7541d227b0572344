"""What is done to a running service."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

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
    last: Deed | None = None
    """When nothing is looked at any more."""


def killed(deployment: str, signum: int = signal.SIGKILL) -> Deed:
    """A signal to a deployment's first replica."""
    return signalled(f"ServeReplica:chatterbox:{deployment}", signum)


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
