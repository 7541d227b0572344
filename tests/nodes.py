"""The service on a Ray cluster of three nodes on one machine, in a process of its own.

    python -m tests.nodes PORT FOLDER

Each node has a raylet and workers of its own, and resources that only it has. A line of JSON tells which replicas are
on which node, at the start and after each node that a line of standard input names: that one is lost, all of its
processes at once, as when the power fails. The end of input ends the rest.
"""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

NODES: dict[str, dict[str, Any]] = {
    "front": {"num_cpus": 1, "resources": {"front": 3}},
    "back": {"num_cpus": 1, "resources": {"t3": 1}},
    "voice": {"num_cpus": 2, "resources": {"t3": 1, "s3gen": 1}},
}
"""T3 has a replica on `back` and one on `voice`; S3Gen, which owns the streams, is on `voice` alone."""
SETTINGS: dict[str, Any] = {
    "model": "dummy:timed",  # a stream is T3's for seconds, however slow S3Gen is beside it
    "device": "cpu",
    "profile": "reference",
    "t3_replicas": 2,
    "resources": {
        "ingress": {"front": 1},
        "voices": {"CPU": 0.1, "front": 1},
        "jobs": {"front": 1},
        "t3": {"CPU": 1, "t3": 1},
        "s3gen": {"CPU": 1, "s3gen": 1},
    },
    # One stream at a time in a step of either stage: sums in another order would differ in their last bits.
    "switches": {
        "t3": {"max_streams": 1},
        "s3gen": {"admission": "places", "hurry_s": None, "max_batch": 1, "cfm_steps": 1},
    },
}
ASKED: dict[str, str] = {
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5",
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "20",
}
"""Serve passes over a replica that does not tell its queue in a tenth of a second, as busy cores may keep it from."""


class Nodes:
    """The program, from the outside."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{port}"
        own = {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._stack = contextlib.ExitStack()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes", str(port), str(folder)],
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | own | ASKED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stack.enter_context((folder / "stderr.log").open("wb")),
            text=True,
        )
        self.address = ""
        """Of its Ray."""
        self.replicas: dict[str, list[str]] = {}
        """The deployments that have replicas, by node."""

    def lose(self, node: str) -> None:
        assert self._process.stdin is not None
        print(node, file=self._process.stdin, flush=True)
        self._listen()

    def log(self, deployment: str) -> str:
        """What the deployment's replicas have logged."""
        paths = self._folder.glob(f"ray/session_2*/logs/serve/replica_chatterbox_{deployment}_*.log")
        return "".join(path.read_text(errors="replace") for path in paths)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self._folder / "stderr.log").read_text()
        self.address, self.replicas = json.loads(line)

    def __enter__(self) -> "Nodes":
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with self._stack:
            self._process.stdin.close()
            self._process.wait(180)


def main() -> None:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from deployments.app import build
    from deployments.settings import ServiceSettings

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster()
    nodes = {name: cluster.add_node(**sizes, **small) for name, sizes in NODES.items()}
    ray.init(address=cluster.address, log_to_driver=False)
    # One proxy: the nodes share the machine's address, and so would their proxies.
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    kept = {"voices_folder": folder / "voices", "jobs_folder": folder / "jobs"}
    settings = ServiceSettings(**SETTINGS, **kept)
    serve.run(build(settings), name="chatterbox", logging_config={"log_level": "WARNING"})
    ray.shutdown()  # the service stays; a driver would end with the node that it came in by

    def processes(name: str) -> list[psutil.Process]:
        raylet = psutil.Process(nodes[name].all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def tell() -> None:
        replicas = {name: sorted(filter(None, map(deployment_of, processes(name)))) for name in nodes}
        print(json.dumps([cluster.address, replicas]), flush=True)

    tell()
    for line in sys.stdin:
        name = line.strip()
        doomed = processes(name)
        for process in doomed:
            process.kill()
        psutil.wait_procs(doomed, 30)
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
        tell()
    cluster.shutdown()


def deployment_of(process: psutil.Process) -> str | None:
    """The deployment whose replica the process is."""
    try:
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return None
    return re.split(r"[. ]", command.split(":")[4])[0] if command.startswith("ray::ServeReplica:chatterbox:") else None


if __name__ == "__main__":
    main()
