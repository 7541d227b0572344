"""The two stages, each built from a checkpoint and a configuration. The drop-in class and the service run these."""

import logging
from collections.abc import Iterable

import torch
from tqdm import tqdm

from chatterbox_engine.accel.device import s3gen_dtype, t3_dtype
from chatterbox_engine.checkpoint import S3GEN_FILE, T3_FILE, Checkpoint
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.s3gen.engine import S3GenEngine, S3GenModel
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.text import normalise
from chatterbox_engine.types import SamplingParams
from chatterbox_engine.voice import Voice
from chatterbox_engine.watermark import Watermarker

logger = logging.getLogger(__name__)

_WARM_UP_S = 600.0
"""Seconds after which a warm-up call that gave nothing counts as failed."""


class T3Stage:
    """T3 with its tokenizer: a piece of text in, valid speech tokens out."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, device: torch.device) -> None:
        self._checkpoint = checkpoint
        spec = checkpoint.spec
        self._tokenizer = checkpoint.tokenizer()
        dtype = t3_dtype(config.t3.precision, device)
        logger.info("T3: loading %s as %s on %s", checkpoint.model, dtype, device)
        model = T3Model.from_weights(spec.t3, checkpoint.weights(T3_FILE), config.t3.max_positions, dtype, device)
        self.dtype = dtype
        self.engine = T3Engine(model, config.t3)
        self.engine.start()

    def speak(self, text: str, voice: Voice, params: SamplingParams) -> Mailbox[int]:
        """Start on one piece of text, which is normalised but not split. Close the stream to cancel.

        Raises InvalidRequest where it does not fit, EngineDead if the loop has ended.
        """
        text = normalise(text, self._checkpoint.spec.family)
        wanted = self._checkpoint.tokens_wanted(text)
        return self.engine.submit(self._tokenizer.encode(text), voice.for_t3(), params, wanted)

    def warm_up(self, voice: Voice) -> None:
        """Run every kind of step once, so that no request pays for first calls."""
        params = SamplingParams(max_new_tokens=8)
        for weight in _progress("T3 warm-up", (0.0, 0.5)):
            stream = self.speak("Warm up.", voice, params.model_copy(update={"cfg_weight": weight}))
            stream.read(params.max_new_tokens, timeout=_WARM_UP_S)


class S3GenStage:
    """S3Gen with the watermark: speech tokens in, audio out."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, device: torch.device) -> None:
        dtype = s3gen_dtype(config.s3gen.precision)
        logger.info("S3Gen: loading %s as %s on %s", checkpoint.model, dtype, device)
        f0_dtype = torch.float32 if config.s3gen.f0_precision == "fp32" else torch.float64
        model = S3GenModel(checkpoint.spec.s3gen, checkpoint.weights(S3GEN_FILE), dtype, device, f0_dtype)
        self.dtype = dtype
        self._schedule = config.s3gen.chunk_schedule
        self.engine = S3GenEngine(model, config.s3gen, Watermarker() if config.watermark else None)
        self.engine.start()

    def open(
        self,
        voice: Voice,
        *,
        schedule: tuple[int, ...] | None = None,
        context_window: int | None = None,
        paced: bool = True,
    ) -> SpeechStream:
        """Begin an utterance; see S3GenEngine.open."""
        return self.engine.open(voice.for_s3gen(), schedule=schedule, context_window=context_window, paced=paced)

    def warm_up(self, voice: Voice) -> None:
        """Make a first chunk and a last one."""
        first = self._schedule[0]
        for tokens in _progress("S3Gen warm-up", (2 * first,)):
            stream = self.open(voice, schedule=(first,), paced=False)
            stream.begin_piece(0, 0.0)
            stream.feed([i % 6561 for i in range(tokens)], final=True)
            stream.finish()
            final = False
            while not final:
                _, final = stream.audio.read(timeout=_WARM_UP_S)


def _progress(what: str, rounds: Iterable[float]) -> Iterable:
    """A bar on a terminal; nothing in a log."""
    return tqdm(rounds, desc=what, disable=None, leave=False)
