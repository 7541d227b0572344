"""How a service ends, beside a stand-in for its ingress; that streams end whole is seen in tests/test_readme.py."""

import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError

from deployments import ending

HOOK = Path(__file__).parents[2] / "tools/ray_start/ray_start.py"


class Ingress:
    """As a handle: what `leave` tells, one after the other."""

    def __init__(self, *told: tuple[int, float] | Exception) -> None:
        self.told = list(told)
        self.leave = self

    def remote(self) -> "Ingress":
        return self

    def result(self, timeout_s: float) -> tuple[int, float]:
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(told, Exception):
            raise told
        return told


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(serve, "delete", names.append)
    monkeypatch.setattr(ending, "_LOOK_S", 0.001)
    return names


@pytest.mark.parametrize(
    ("told", "seconds", "left"),
    [
        ([(2, 60.0), (1, 60.0), (0, 60.0)], None, 0),
        ([(3, 60.0)], 0.02, 3),
        ([(3, 0.02)], None, 3),
        ([ActorDiedError()], None, 0),
        ([TimeoutError()], None, 0),
    ],
)
def test_it_waits_for_streams_and_deletes_what_has_none(
    told: list[Any], seconds: float | None, left: int, deleted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "get_app_handle", lambda _: Ingress(*told))
    assert ending.drain("speech", seconds) == left
    assert deleted == ([] if left else ["speech"])


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["/venv/bin/serve", "run", "serve_config.yaml"], True),
        (["/venv/ray/serve/scripts.py", "run", "x.yaml"], True),
        (["/venv/bin/serve", "deploy", "x.yaml"], False),
        (["/venv/bin/pytest", "run"], False),
        (["-c"], False),
    ],
)
def test_signals_are_taken_in_serve_run_alone(
    arguments: list[str], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    set_for: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda signum, _: set_for.append(signum))
    given = {"env_vars": {"A": "b"}}
    assert runpy.run_path(str(HOOK))["let_signals_drain"](given) is given
    assert set_for == ([signal.SIGTERM, signal.SIGINT] if taken else [])


def test_a_second_signal_ends_it_at_once() -> None:
    program = f"""
        import runpy, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        sys.argv = ["serve", "run"]
        hook = runpy.run_path({str(HOOK)!r})
        hook["let_signals_drain"].__globals__["_drain"] = lambda: time.sleep(600)
        hook["let_signals_drain"](None)
        print("ready", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7
