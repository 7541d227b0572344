"""Where a stream stopped: by its length beside the teacher's for the same text, and by its limit of tokens."""

import math
from typing import Literal

from chatterbox_engine.types import TOKEN_RATE

Stop = Literal["good", "early", "late", "runaway"]
EARLY, LATE = 0.6, 1.6
"""Ratios of length outside which a stop is wrong."""
_ROOM = 2.5
"""Times the teacher's length that a stream may take."""
_SPARE_TOKENS = 25
_NEAR_TOKENS = 3
"""Tokens that a stream at its limit may lack: those that are not speech."""


def limit(expected_s: float) -> int:
    """max_new_tokens for a text that the teacher speaks in `expected_s` seconds: far beyond LATE, and no waste."""
    return math.ceil(_ROOM * expected_s * TOKEN_RATE) + _SPARE_TOKENS


def stop(seconds: float, expected_s: float, max_new_tokens: int | None = None) -> Stop:
    """What became of a stream of `seconds` where the teacher takes `expected_s`.

    It has run away where it has as many tokens as it might; without a limit, none has.
    """
    if max_new_tokens is not None and seconds * TOKEN_RATE >= max_new_tokens - _NEAR_TOKENS:
        return "runaway"
    ratio = seconds / expected_s
    return "early" if ratio < EARLY else "late" if ratio > LATE else "good"
