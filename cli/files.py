"""Files that a command writes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.files import whole


@contextlib.contextmanager
def output(path: Path) -> Iterator[Path]:
    """A place to write the file, which is there whole or not at all. Raises InvalidRequest where it cannot be."""
    try:
        with whole(path) as part:
            yield part
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error}", "output") from error
