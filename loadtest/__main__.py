"""python -m loadtest: start a service, load it, and write what was found as one HTML file.

    uv run python -m loadtest --shape ramp --most 16 --seconds 240 --report report.html
    uv run python -m loadtest --shape spike --most 20 --hang-up-share 0.01 --slow-share 0.01
    uv run python -m loadtest --host http://10.0.0.5:8000 --metrics 10.0.0.5:8080 --arrivals 2 --most 1

What listeners may be told to do is what loadtest/locustfile.py takes. The last line is JSON.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from loadtest.findings import Objective, findings, read
from loadtest.local_service import LocalService
from loadtest.report import verdict, write
from loadtest.server import Watch
from loadtest.stages import SHAPES
from loadtest.talk import KEY

_FILES = [Path(__file__).parent / name for name in ("locustfile.py", "shapes.py")]
_ENDS_S = 300.0


def run(
    host: str, metrics: list[str], options: list[str], seconds: float, events: Path, key: str | None = None
) -> Watch:
    """Locust, and a look at the service's figures beside it; `key` goes where no list of processes shows it. Raises
    subprocess.SubprocessError."""
    files = ",".join(map(str, _FILES))
    command = [sys.executable, "-m", "locust", "--headless", "-f", files, "--host", host, "--seconds", str(seconds)]
    events.touch()
    with Watch(metrics) as watch:
        done = subprocess.run(
            [*command, "--stop-timeout", "60", "--exit-code-on-error", "0", "--events", str(events), *options],
            timeout=seconds + _ENDS_S, check=False, stdout=sys.stderr,
            env=os.environ | ({KEY: key} if key else {}),
        )  # fmt: skip
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command)
    return watch


@contextlib.contextmanager
def service(given: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Where it is, and where its metrics are."""
    if given.host:
        yield given.host, [f"http://{address}/metrics" for address in given.metrics]
        return
    with LocalService(model=given.model) as own:
        yield own.url, own.metrics()


def main() -> None:
    objective = Objective()
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=(__doc__ or "").partition("\n")[0],
                                     epilog="Anything else is the locustfile's.")  # fmt: skip
    parser.add_argument("--host", help="a service that runs; default: one of its own")
    parser.add_argument("--metrics", action="append", default=[], metavar="HOST:PORT", help="of a node of Ray's")
    parser.add_argument("--model", default="auto", help="of a service of its own")
    parser.add_argument("--key", default=os.environ.get(KEY), help=f"API key, where it asks for one (default: ${KEY})")
    parser.add_argument("--shape", default="ramp", choices=SHAPES)
    parser.add_argument("--most", type=int, default=8, help="listeners at a time, at most")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--report", type=Path, default=Path("loadtest.html"))
    for field in fields(objective):
        name = f"--objective-{field.name.replace('_', '-')}"
        parser.add_argument(name, type=float, default=getattr(objective, field.name))
    given, others = parser.parse_known_args()
    objective = Objective(**{field.name: getattr(given, f"objective_{field.name}") for field in fields(objective)})
    options = ["--shape", given.shape, "--most", str(given.most), *others]
    with tempfile.TemporaryDirectory() as folder, service(given) as (host, metrics):
        events = Path(folder) / "events.jsonl"
        watch = run(host, metrics, options, given.seconds, events, given.key)
        seen = read(events)
    told = findings(seen, watch, objective)
    own = {"model": given.model, "machine": platform.processor() or platform.machine()}
    load = {"shape": given.shape, "most": given.most, "seconds": given.seconds}
    conditions = ({"host": given.host} if given.host else own) | load | {"listeners": " ".join(others) or "plain"}
    write(given.report, conditions, seen, watch, told)
    print(f"{verdict(told)} {given.report} has all of it.", file=sys.stderr)
    print(json.dumps(conditions | told))


if __name__ == "__main__":
    main()
