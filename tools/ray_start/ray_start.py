"""`serve run` lets its streams end when it gets SIGTERM or SIGINT; Ray's own answer is to cut them.

Ray calls RAY_RUNTIME_ENV_HOOK (set by ray_start.pth) in `ray.init`, after it has set its own handler of SIGTERM.
"""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any


def let_signals_drain(runtime_env: dict[str, Any] | None) -> dict[str, Any] | None:
    """In `serve run`, drain before what a signal did so far; a second one ends it at once. Returns what it was given.

    Where it joined a Ray that others started, the service outlives it, and nothing is drained.
    """
    if _is_serve_run(sys.argv) and threading.current_thread() is threading.main_thread():
        handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

        def end(signum: int, frame: FrameType | None) -> None:
            for name, handler in handlers.items():
                signal.signal(name, handler)
            signal.alarm(0)  # Ray's own library, which heard the signal first, would have the process end in 3 s
            # Beside this thread: the signal may have come in the middle of a call to Ray.
            draining = threading.Thread(target=_drain, daemon=True)
            draining.start()
            draining.join()
            handler = handlers[signal.Signals(signum)]
            if callable(handler):
                handler(signum, frame)

        for signum in handlers:
            signal.signal(signum, end)
    return runtime_env


def _is_serve_run(arguments: list[str]) -> bool:
    """`serve run ...` or `python -m ray.serve.scripts run ...`."""
    return Path(arguments[0]).stem in ("serve", "scripts") and arguments[1:2] == ["run"]


def _drain() -> None:
    import psutil
    import ray

    if ray.is_initialized() and any(child.name() == "raylet" for child in psutil.Process().children()):
        from deployments.ending import drain_all

        drain_all()
