"""Ends a replica that hangs, or whose engine has ended, so that Ray can replace it.

Ray finds a replica that does not answer, and asks its process to end; one that is stopped, or stuck in a call that
keeps the interpreter's lock, never does, and its place stays taken. So a second process, which shares nothing with it,
hears a beat each second and sends SIGKILL where there is none. One whose engine has ended has nothing left to do: it
ends itself at once, since Ray would wait for its streams first.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from chatterbox_engine.errors import EngineDead

logger = logging.getLogger("ray.serve")

SILENT_S = 8
"""Seconds without a beat after which a process counts as hung."""
_BEAT_S = 1.0
_WATCH = """
import os, select, signal, sys
victim, seconds = int(sys.argv[1]), int(sys.argv[2])
silent = 0
while silent < seconds:
    if select.select([0], [], [], 1.0)[0]:
        if not os.read(0, 4096):
            sys.exit()
        silent = 0
    else:
        silent += 1
print(f"Process {victim} has not stirred for {seconds} s: it is ended.", file=sys.stderr, flush=True)
os.kill(victim, signal.SIGKILL)
"""
"""Silence is counted in seconds that the watcher was awake: where the whole machine or container slept, both did."""


def watch(alive: Callable[[], None] | None = None, silent_s: int = SILENT_S) -> subprocess.Popen[bytes]:
    """Have this process watched for as long as it lives; returns the watcher. `alive` raises EngineDead."""
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(silent_s)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
    threading.Thread(target=_beat, args=(watcher, alive), name="watchdog", daemon=True).start()
    return watcher


def _beat(watcher: subprocess.Popen[bytes], alive: Callable[[], None] | None) -> None:
    assert watcher.stdin is not None
    try:
        while True:
            if alive is not None:
                alive()
            with contextlib.suppress(OSError):  # somebody ended the watcher: the process goes on without
                watcher.stdin.write(b".")
            time.sleep(_BEAT_S)
    except EngineDead as error:
        logger.error("This replica ends, for another to take its place: %s", error)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
