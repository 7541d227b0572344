"""A process that hangs is ended; one that lives is not; one that has ended leaves no watcher."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests.service import Service

_WATCHED = """
import time
from deployments.watchdog import watch
print(watch(silent_s={silent}).pid, flush=True)
time.sleep({lives})
"""


def watched(silent: int, lives: float) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process under watch, and its watcher."""
    code = _WATCHED.format(silent=silent, lives=lives)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def test_a_process_that_is_stopped_is_killed() -> None:
    process, watcher = watched(2, 60)
    process.send_signal(signal.SIGSTOP)
    assert process.wait(30) == -signal.SIGKILL
    watcher.wait(10)


def test_a_process_that_waits_lives_and_takes_its_watcher_along() -> None:
    process, watcher = watched(3, 4.5)
    assert process.wait(30) == 0
    watcher.wait(10)


def test_a_watcher_that_slept_too_does_not_strike() -> None:
    process, watcher = watched(2, 8)
    for one in (process, watcher):
        one.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    for one in (process, watcher):
        one.send_signal(signal.SIGCONT)
    assert process.wait(30) == 0


_ENDED = """
import time
from chatterbox_engine.errors import EngineDead
from deployments.watchdog import watch
begin = time.monotonic()
def alive():
    if time.monotonic() > begin + 1:
        raise EngineDead("It has ended.")
watch(alive)
time.sleep(60)
"""


def test_a_process_whose_engine_has_ended_ends() -> None:
    assert subprocess.run([sys.executable, "-c", _ENDED], timeout=30, check=False).returncode == -signal.SIGKILL


@pytest.mark.service
@pytest.mark.parametrize("deployment", ["T3", "S3Gen", "Voices", "Jobs", "Ingress"])
def test_every_replica_is_watched(service: Service, deployment: str) -> None:
    commands = [" ".join(child.cmdline()) for child in service.replica(deployment).children()]
    assert sum("has not stirred" in command for command in commands) == 1
