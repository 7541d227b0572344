"""What the engine says of switches that cannot apply here."""

import logging

from chatterbox_engine import accel


class Fallbacks(logging.Handler):
    """Keeps the warnings of chatterbox_engine.accel, from when it is made until it is closed: each is said there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[str] = []
        logging.getLogger(accel.__name__).addHandler(self)

    @property
    def said(self) -> list[str]:
        """Each sentence once."""
        return list(dict.fromkeys(self._said))

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())

    def close(self) -> None:
        logging.getLogger(accel.__name__).removeHandler(self)
        super().close()
