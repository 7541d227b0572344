"""Files that are there whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from chatterbox_engine.errors import InvalidRequest


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write the file. Raises InvalidRequest."""
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error}", "output") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
