"""A file system of fsspec's, `slow://PATH`: a disk that takes as long for every call as a file beside it says."""

import os
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

FOLDER = "CHATTERBOX_SLOW_DISK"
"""The environment variable that names the folder where that file is."""


class SlowDisk(LocalFileSystem):  # fsspec has no types
    """The local disk under another name, which keeps its users waiting."""

    protocol = "slow"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str):
            path = path.removeprefix("slow://")
        return super()._strip_protocol(path)

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        _wait()
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        _wait()
        return bytes(super().cat_file(path, start, end, **options))

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        _wait()
        super().pipe_file(path, value, **options)


def install(folder: Path) -> None:
    """Make it known to the fsspec of every Python that has `folder` in its path: by the entry points of a package."""
    package = folder / "slow_disk-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-disk\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[fsspec.specs]\nslow = drills.slow_disk:SlowDisk\n")
    wait(folder, 0.0)


def wait(folder: Path, seconds: float) -> None:
    """From now on every call takes so long."""
    (folder / "slow").write_text(str(seconds))


def _wait() -> None:
    time.sleep(float((Path(os.environ[FOLDER]) / "slow").read_text() or 0))
