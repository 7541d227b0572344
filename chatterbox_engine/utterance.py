"""A text on its way through both stages, in one process."""

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.seeds import derive_seed
from chatterbox_engine.stages import S3GenStage, T3Stage
from chatterbox_engine.t3.token_stream import TokenStream
from chatterbox_engine.text import Piece
from chatterbox_engine.types import SAMPLE_RATE, SamplingParams, SpokenWord
from chatterbox_engine.voice import Voice

ANSWER_S = 600.0
"""Seconds without any answer from an engine after which it counts as dead."""


@dataclass(frozen=True, slots=True)
class StreamingMetrics:
    """How a stream went so far."""

    latency_to_first_chunk: float
    """Seconds from the call to the first chunk."""
    rtf: float
    """Real-time factor: seconds spent over seconds of audio made. Lower is better."""
    total_generation_time: float
    total_audio_duration: float
    chunk_count: int
    words: tuple[SpokenWord, ...] = ()
    """Those that begin within this chunk or soon after, where the model knows them."""


class Utterance:
    """Begins to speak when it is made: a thread hands T3's tokens to S3Gen, piece after piece."""

    def __init__(
        self,
        t3: T3Stage,
        s3gen: S3GenStage,
        voice: Voice,
        pieces: Sequence[Piece],
        params: SamplingParams,
        language: str,
        schedule: tuple[int, ...] | None,
        context_window: int | None,
        *,
        paced: bool = False,
    ) -> None:
        """`paced`: a listener plays it in real time as it comes. Raises what `S3GenEngine.open` does."""
        self._begin = time.monotonic()
        self._stream: SpeechStream = s3gen.open(voice, schedule=schedule, context_window=context_window, paced=paced)
        self._t3 = t3
        self._voice = voice
        self._language = language
        self._tokens: TokenStream | None = None
        self._cancelled = False
        self._thread = threading.Thread(target=self._feed, args=(pieces, params), daemon=True)
        self._thread.start()

    def chunks(self) -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
        """((1, samples), metrics) as they are made. Closing the generator cancels."""
        first, seconds, count, final = 0.0, 0.0, 0, False
        try:
            while not final:
                read, final = self._stream.audio.read(timeout=ANSWER_S, progress=self._spoken)
                if not read:
                    continue
                samples = np.concatenate(read)
                elapsed = time.monotonic() - self._begin
                first, count = first or elapsed, count + 1
                seconds += len(samples) / SAMPLE_RATE
                words = self._stream.words()
                metrics = StreamingMetrics(first, elapsed / seconds, elapsed, seconds, count, words)
                yield torch.from_numpy(samples)[None], metrics
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End both stages' work on it; safe after the end."""
        self._cancelled = True
        self._stream.audio.close()
        if self._tokens is not None:
            self._tokens.close()

    def _spoken(self) -> tuple[int, int]:
        """How far T3 is."""
        return id(self._tokens), 0 if self._tokens is None else self._tokens.unread

    def _feed(self, pieces: Sequence[Piece], params: SamplingParams) -> None:
        try:
            for index, piece in enumerate(pieces):
                seed = derive_seed(params.seed, index)
                own = params.model_copy(update={"seed": seed})
                tokens = self._t3.speak(piece.text, self._voice, own, self._language)
                self._tokens = tokens
                if self._cancelled:
                    tokens.close()
                sizes = self._stream.begin_piece(seed, piece.pause_s)
                final, chunk = False, 0
                while not final:
                    read, final = tokens.read(sizes[min(chunk, len(sizes) - 1)], timeout=ANSWER_S)
                    if self._cancelled:
                        tokens.close()
                        return
                    self._stream.feed(read, final=final, words=tokens.begun(len(read)))
                    chunk += 1
            self._stream.finish()
        except BaseException as error:
            self._stream.audio.fail(error)
