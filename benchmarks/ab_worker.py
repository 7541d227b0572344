"""One variant of `ab` in a process of its own, so that its peak memory is its own; it answers by a pipe.

Two processes, not two engines in one: the allocator's pools, the settings that PyTorch keeps per process (tf32, the
allocator's) and the peak would be shared. Only one of them computes at a time; the other sleeps.
"""

import contextlib
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks import conditions, e2e, subject
from benchmarks.ab_variants import Stage
from benchmarks.fallbacks import Fallbacks
from benchmarks.measure import Measured
from benchmarks.s3gen import Speaking
from benchmarks.subject import Subject
from benchmarks.t3 import Decoding
from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_FRAME

_LOUD_ENOUGH = 1e-5
"""Floor of a mel's magnitudes, beneath which differences are not heard."""
_END_S = 20.0
"""Seconds that a process may take to end."""
_ENDED = "the process ended without a word"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    tokens: int = 24
    positions: int = 300
    rounds: int = 3
    """Of T3, after one start."""
    seconds: float = 2.0
    e2e_tokens: int = 60
    threads: int | None = None


class Lab:
    """A stage of a variant, and what can be measured of it."""

    def __init__(self, given: Subject, stage: Stage, sizes: Sizes) -> None:
        self._sizes = sizes
        self._device = given.device
        self._fallbacks = Fallbacks()
        checkpoint = given.checkpoint()
        self._spec = checkpoint.spec
        self._voice = subject.voice_of(checkpoint)
        self._running = contextlib.ExitStack()
        """T3's stream."""
        self.measure: Callable[[], Measured]
        self.warm_up: Callable[[], Measured | None]
        """The first call; what it measured, where there is a name for that."""
        if stage == "t3":
            self._decoding = Decoding(given, checkpoint, sizes.positions, sizes.tokens, 1, sizes.rounds)
            self.warm_up = lambda: self._decoding.warm_up(1)
        elif stage == "s3gen":
            self._speaking = Speaking(given, checkpoint, 1)
            self.warm_up = self.measure = lambda: self._speaking.run(sizes.seconds, 1)
        else:
            tts = e2e.load(given)
            self.warm_up = self.measure = lambda: e2e.speak(tts, e2e.TEXT, sizes.e2e_tokens)

    def begin(self) -> Measured:
        """Start T3's stream anew, with room for the rounds; it pauses after each, and until the first."""
        self.end()
        running = self._running.enter_context(self._decoding.started(1))
        self.measure = running.round
        return {"first_token_s": running.first_token_s}

    def end(self) -> None:
        """End T3's stream. While it is there, even paused, it keeps a place, which may be the only one."""
        self._running.close()

    def peak_bytes(self) -> int:
        return conditions.peak_bytes(self._device)

    def fallbacks(self) -> list[str]:
        """What the engine has said of switches that cannot apply here."""
        return self._fallbacks.said

    def spoken(self, seed: int, tokens: int) -> list[int]:
        """Valid speech tokens of one piece of text."""
        params = self._spec.sampling.model_copy(update={"seed": seed, "max_new_tokens": tokens})
        stream = self._decoding.stage.speak(e2e.TEXT, self._voice, params, self._spec.language)
        return stream.read(tokens + 1)[0]

    def score(self, tokens: list[int]) -> np.ndarray:
        """Log-probabilities (n, V) float32 of the token at each given one's place."""
        stage, spec = self._decoding.stage, self._spec
        return stage.score(e2e.TEXT, self._voice, tokens, spec.sampling, spec.language).float().cpu().numpy()

    def mel(self, seed: int) -> np.ndarray:
        """Log-mel (80, frames) of one utterance's audio."""
        import torchaudio  # not everywhere that the other benchmarks run

        audio = self._speaking.audio(self._sizes.seconds, seed)
        bins = self._spec.s3gen.mel_bins
        transform = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=4 * SAMPLES_PER_FRAME, hop_length=SAMPLES_PER_FRAME, n_mels=bins, f_max=8000.0, power=1.0
        )
        return transform(audio).clamp(min=_LOUD_ENOUGH).log().numpy()


class Process:
    """A Lab elsewhere. A method that fails there raises RuntimeError here, with the words of the failure.

    One that takes longer than `patience` seconds, too; then the process is killed.
    """

    def __init__(self, given: Subject, stage: Stage, sizes: Sizes, patience: float) -> None:
        self._patience = patience
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, given, stage, sizes), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the Lab. Raises RuntimeError."""
        try:
            self._pipe.send((method, arguments))
        except OSError as error:
            raise RuntimeError(_ENDED) from error
        return self._answer()

    def measure(self) -> Measured:
        return self.call("measure")

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._pipe.close()  # at which it ends by itself
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self._patience):
                self._process.kill()
                self._process.join()
                raise RuntimeError(f"no answer within {self._patience:g} s")
            well, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_END_S)
            raise RuntimeError(_ENDED) from error
        if not well:
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Connection, given: Subject, stage: Stage, sizes: Sizes) -> None:
    if sizes.threads is not None:
        torch.set_num_threads(sizes.threads)
    lab: Lab | None = None
    with contextlib.suppress(EOFError, OSError):  # the parent has closed its end
        while True:
            try:
                answer = None
                if lab is None:
                    lab = Lab(given, stage, sizes)
                else:
                    method, arguments = pipe.recv()
                    answer = getattr(lab, method)(*arguments)
            except (EOFError, OSError):
                raise
            except Exception as error:
                pipe.send((False, f"{type(error).__name__}: {error}"))
                if lab is None:
                    return
            else:
                pipe.send((True, answer))
