"""A folder of small files: a path, or whatever address fsspec knows, such as a bucket."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from chatterbox_engine.files import whole

_STAMPS = ("mtime", "ino", "ETag", "etag", "LastModified", "last_modified", "updated", "generation", "created")
"""What the file systems that fsspec knows say of a file that has changed."""


class Entry(NamedTuple):
    """Equal as long as the file is the same."""

    size: int
    """Bytes."""
    stamps: tuple[str, ...]


class Folder:
    """Files by name, each whole or not there. A folder without files need not exist.

    Raises what the file system does: OSError where it fails, ImportError where its package is missing (s3fs for s3://,
    gcsfs for gs://, adlfs for az://), ValueError for an address of no known kind.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._files, self._root = url_to_fs(self.address, use_listings_cache=False)
        self.local = isinstance(self._files, LocalFileSystem)

    def make(self) -> None:
        """Make it, where folders are made; fails where files could not be written."""
        self._files.makedirs(self._root, exist_ok=True)

    def under(self, name: str) -> "Folder":
        return Folder(f"{self.address.rstrip('/')}/{name}")

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        return [name for name, entry in self._entries() if entry["type"] == "directory"]

    def files(self) -> dict[str, Entry]:
        """The files in it, by name."""
        found = ((name, entry) for name, entry in self._entries() if entry["type"] == "file")
        return {name: Entry(int(own["size"]), tuple(str(own.get(key)) for key in _STAMPS)) for name, own in found}

    def read(self, name: str, end: int | None = None) -> bytes:
        """A file, or its first `end` bytes, which it must have. Raises FileNotFoundError."""
        part = {} if end is None else {"start": 0, "end": end}
        return bytes(self._files.cat_file(self._path(name), **part)) if end != 0 else b""

    def write(self, name: str, data: bytes) -> None:
        if not self.local:
            self._files.pipe_file(self._path(name), data)  # one request: there, or not
            return
        self.make()
        with whole(Path(self._path(name))) as part:
            part.write_bytes(data)

    def remove(self, name: str) -> None:
        """Raises FileNotFoundError."""
        self._files.rm_file(self._path(name))

    def age(self, name: str) -> float:
        """Seconds since it was written. Raises FileNotFoundError."""
        return float(time.time() - self._files.modified(self._path(name)).timestamp())

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _entries(self) -> list[tuple[str, dict[str, Any]]]:
        try:
            found = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return [(str(entry["name"]).rstrip("/").rpartition("/")[2], entry) for entry in found]
