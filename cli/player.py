"""The loudspeaker: whichever program that plays raw samples is here."""

import contextlib
import shutil
import subprocess
from types import TracebackType

from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.types import SAMPLE_RATE

_RATE = str(SAMPLE_RATE)
PLAYERS = (
    ("pw-cat", "--playback", "--raw", "--rate", _RATE, "--channels", "1", "--format", "s16", "-"),
    ("paplay", "--raw", f"--rate={_RATE}", "--channels=1", "--format=s16le"),
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-r", _RATE, "-c", "1", "-"),
    ("play", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-r", _RATE, "-c", "1", "-"),
    ("ffplay", "-loglevel", "error", "-nodisp", "-autoexit", "-f", "s16le", "-ar", _RATE, "-i", "-"),
)
"""PipeWire's, PulseAudio's, ALSA's, SoX's and FFmpeg's."""


class Player:
    """Plays 16-bit mono samples as they are written; leaving it waits until they have been heard."""

    def __init__(self) -> None:
        """Raises InvalidRequest where no player is here."""
        command = next((player for player in PLAYERS if shutil.which(player[0])), None)
        if command is None:
            names = ", ".join(player[0] for player in PLAYERS)
            raise InvalidRequest(
                f"No player is here (one of {names}; on macOS `brew install sox`): name a file with -o.", "output"
            )
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def write(self, data: bytes) -> None:
        """Raises InvalidRequest where the player has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise InvalidRequest("The player ended before the speech did: name a file with -o.", "output") from error

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
