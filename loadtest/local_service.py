"""A service of one's own for drills: started by `serve run`, as users start it, and killed as a power cut would."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
import yaml

_STARTS_S = 180.0
_ENDS_S = 60.0


class LocalService:
    """`serve run` with some of the settings of serve_config.yaml's `args`, on a port of its own.

    Its Ray, too, is its own: nothing of another that runs on the machine is touched.
    """

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="chatterbox-drill-")
        self.folder = Path(self._folder.name)
        self.log = self.folder / "serve.log"
        kept = {name: str(self.folder / name.partition("_")[0]) for name in ("voices_folder", "jobs_folder")}
        self.settings = {**kept, **settings}
        self._config = self.folder / "serve_config.yaml"
        ray = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = os.environ | ray
        """Of its processes, and of those that want to join its Ray."""
        self._process: psutil.Popen | None = None

    def start(self) -> None:
        """Returns when /health is 200. Raises RuntimeError where that does not come."""
        hidden = self.environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"  # it listens to this machine alone
        settings = {**self.settings, "open_to_network": True} if hidden else self.settings
        application = {"name": "chatterbox", "import_path": "deployments.app:build", "args": settings}
        http = {"host": "127.0.0.1", "port": self.port}
        self._config.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "ray.serve.scripts", "run", str(self._config)]
            self._process = psutil.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        end = time.monotonic() + _STARTS_S
        while time.monotonic() < end and self._process.poll() is None:
            if self.healthy():
                return
            time.sleep(0.5)
        raise RuntimeError(f"The service did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Its processes whose command line holds the name: ServeReplica:chatterbox:T3, raylet, gcs_server."""
        assert self._process is not None
        found = []
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def replica(self, deployment: str) -> psutil.Process:
        """The process of a deployment's first replica. Raises IndexError where it has none now."""
        return self.processes(f"ServeReplica:chatterbox:{deployment}")[0]

    def ray_address(self) -> str:
        """Where its Ray can be joined."""
        arguments = " ".join(self.processes("raylet/raylet")[0].cmdline())
        return arguments.partition("--gcs-address=")[2].split()[0]

    def metrics(self) -> list[str]:
        """Where its Ray exports metrics: a port that nobody but its agent knows."""
        ports = {
            connection.laddr.port
            for agent in self.processes("ray::DashboardAgent")
            for connection in agent.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        urls = [f"http://127.0.0.1:{port}/metrics" for port in sorted(ports)]
        return [url for url in urls if self._exports(url)]

    def _exports(self, url: str) -> bool:
        try:
            return "ray_" in httpx.get(url, timeout=5).text
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """SIGKILL to all of it at once; nothing where it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        doomed = self.processes()
        end(doomed)
        psutil.wait_procs(doomed, _ENDS_S)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """By a signal that lets streams end, and SIGKILL for what is left then."""
        if self._process is None or self._process.poll() is not None:
            return
        everything = self.processes()
        self._process.send_signal(signum)
        _, left = psutil.wait_procs(everything, _ENDS_S)
        end(left)

    def __enter__(self) -> "LocalService":
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)  # nobody else will
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()


def end(processes: list[psutil.Process]) -> None:
    """SIGKILL; some may have ended by then."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
