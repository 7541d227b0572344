"""The two stages, each built from a checkpoint and a configuration. The drop-in class and the service run these."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from chatterbox_engine.accel.device import s3gen_dtype, t3_dtype
from chatterbox_engine.accel.memory import apply
from chatterbox_engine.accel.quantization import applicable
from chatterbox_engine.checkpoint import S3GEN_FILE, T3_FILE, Checkpoint
from chatterbox_engine.config import EngineConfig, S3GenSwitches
from chatterbox_engine.errors import InvalidRequest, Overloaded
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.scoring import score
from chatterbox_engine.t3.token_stream import TokenStream
from chatterbox_engine.text import normalise
from chatterbox_engine.types import Interrupted, SamplingParams, T3Voice
from chatterbox_engine.voice import Voice
from chatterbox_engine.watermark import Watermarker

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

_WARM_UP_S = 600.0
"""Seconds after which a warm-up call that gave nothing counts as failed."""


class T3Stage:
    """T3 with its tokenizer: a piece of text in, valid speech tokens out."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, device: torch.device) -> None:
        """Raises ModelUnavailable, and InvalidRequest where the model overflows in the precision asked for."""
        self._checkpoint = checkpoint
        self._warmup = config.warmup
        spec, switches = checkpoint.spec, config.t3
        self._tokenizer = checkpoint.tokenizer()
        if switches.alignment_guard == "on" and not spec.t3.aligned_heads:
            raise InvalidRequest(
                f"No head of {checkpoint.model} is known to follow the text, so it has no alignment guard: use auto.",
                "t3.alignment_guard",
            )
        apply(config.memory, device)
        kernels = switches.cpu_kernels if switches.compile == "off" else "plain"  # packed weights do not compile
        dtype = t3_dtype(switches.precision, device, kernels)
        form = applicable(switches.quantization, device)
        logger.info("T3: loading %s as %s, quantization %s, on %s", checkpoint.model, dtype, form, device)
        weights, positions = checkpoint.weights(T3_FILE), switches.max_positions or spec.t3.positions
        self._model = T3Model.from_weights(spec.t3, weights, positions, dtype, device, form, kernels)
        self.dtype = dtype
        if dtype == torch.float16:
            self._check_finite()
        self.engine = T3Engine(self._model, switches, idle_s=config.memory.idle_s)
        self.engine.takes_s = spec.random_weights.t3_step_s if spec.random_weights else 0.0
        logger.info("T3: steps run by %s", self.engine.runner.kernels)
        if self._warmup == "full":
            self.engine.capture(_progress)
        self.engine.start()

    def _check_finite(self) -> None:
        """fp16 ends at 65504; what goes beyond must not reach a listener as noise."""
        t3 = self._model.spec
        voice = T3Voice("", torch.zeros(1, t3.speaker_width), torch.zeros(1, t3.prompt_tokens, dtype=torch.int64))
        text = self._tokenizer.encode(normalise("Is this finite?", self._checkpoint.spec.family), "en")
        if not score(self._model, text, voice, list(range(100)), self._checkpoint.spec.sampling).isfinite().all():
            raise InvalidRequest(f"{self._checkpoint.model} overflows in fp16. Use bf16 or fp32.", "t3.precision")

    def speak(
        self,
        text: str,
        voice: Voice,
        params: SamplingParams,
        language: str = "en",
        spoken: tuple[int, ...] = (),
        slack_s: float = 0.0,
    ) -> TokenStream:
        """Start on one piece of text, which is normalised but not split, or go on after what was spoken of it
        elsewhere. Close the stream to cancel. `slack_s`: seconds that its listener has still to play.

        Raises InvalidRequest where it does not fit, EngineDead if the loop has ended.
        """
        text = normalise(text, self._checkpoint.spec.family)
        wanted = self._checkpoint.tokens_wanted(text)
        ids, words = self._tokenizer.read(text, language)
        stream = self.engine.submit(ids, voice.for_t3(), params, wanted, spoken, slack_s)
        stream.follow(words, len(spoken))
        return stream

    def score(self, text: str, voice: Voice, tokens: list[int], params: SamplingParams, language: str = "en") -> Tensor:
        """Log-probabilities (n, V) of the token at each given one's place, those before it given (`t3.scoring`)."""
        ids = self._tokenizer.encode(normalise(text, self._checkpoint.spec.family), language)
        return score(self._model, ids, voice.for_t3(), tokens, params, self.engine.runner.cache.quantised)

    def warm_up(self, voice: Voice) -> None:
        """Run every kind of step once, so that no request pays for first calls."""
        if self._warmup == "none":
            return
        spec = self._checkpoint.spec
        params = spec.sampling.model_copy(update={"max_new_tokens": 8})
        weights = (0.0, params.cfg_weight) if spec.t3.cfg else (0.0,)
        for weight in _progress("T3 warm-up", weights):
            stream = self.speak("Warm up.", voice, params.model_copy(update={"cfg_weight": weight}))
            stream.read(params.max_new_tokens, timeout=_WARM_UP_S)


class S3GenStage:
    """S3Gen with the watermark: speech tokens in, audio out."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, device: torch.device) -> None:
        apply(config.memory, device)
        self._warmup = config.warmup
        dtype = s3gen_dtype(config.s3gen.precision, device)
        logger.info("S3Gen: loading %s as %s on %s", checkpoint.model, dtype, device)
        weights = checkpoint.weights(S3GEN_FILE)
        vocos = checkpoint.vocos(config.s3gen)
        self.model = S3GenModel(checkpoint.spec.s3gen, weights, dtype, device, config.s3gen, vocos)
        self.dtype = dtype
        self._schedule = config.s3gen.chunk_schedule
        self._most = min(config.s3gen.max_batch, config.s3gen.max_streams)
        own = config.s3gen.cpu_kernels == "auto" and config.s3gen.precision != "fp32"
        watermarker = Watermarker(device=device, kernels=own) if config.watermark else None
        self.engine = S3GenEngine(self.model, config.s3gen, watermarker, config.memory.idle_s)
        random = checkpoint.spec.random_weights
        self.engine.takes_s = random.s3gen_call_s if random else 0.0
        logger.info("S3Gen: chunks made by %s", self.model.kernels)
        self._tell_room(config.s3gen)
        self.engine.start()

    def _tell_room(self, switches: S3GenSwitches) -> None:
        """Warn where there may be no memory for as many streams as have places."""
        room = self.model.room(switches)
        if room is not None and (holds := room.places(switches.max_streams)) < switches.max_streams:
            turned = "are turned away" if switches.admission == "auto" else "may end (s3gen.admission: auto)"
            logger.warning(
                "S3Gen: there is memory for what %d streams of %g s keep (%.1f MB a second), of %d that have places "
                "(s3gen.max_streams). Others %s; where streams see less (s3gen.context_window), more fit.",
                holds, room.most_s, room.second_bytes / 1e6, switches.max_streams, turned,
            )  # fmt: skip

    def open(
        self,
        voice: Voice,
        *,
        schedule: tuple[int, ...] | None = None,
        context_window: int | None = None,
        paced: bool = True,
        speed: float = 1.0,
        goes_on: bool = False,
        interrupted: Interrupted | None = None,
    ) -> SpeechStream:
        """Begin an utterance; see S3GenEngine.open."""
        return self.engine.open(
            voice.for_s3gen(), schedule=schedule, context_window=context_window, paced=paced, speed=speed,
            goes_on=goes_on, interrupted=interrupted,
        )  # fmt: skip

    def warm_up(self, voice: Voice) -> None:
        """Make a first chunk and a last one. `full`, where calls are captured: the whole schedule twice, by the numbers
        of streams that a call may have, the largest first."""
        if self._warmup == "none":
            return
        first = self._schedule[0]
        rounds: list[tuple[int, tuple[int, ...], int]] = [(1, (first,), 2 * first)]
        if self._warmup == "full" and self.model.graphs.enabled:
            sizes = {1 << power for power in range(self._most.bit_length())} | {self._most}
            whole = sum(self._schedule) + first
            rounds = [(size, self._schedule, whole) for size in sorted(sizes, reverse=True) for _ in range(2)]
        for streams, schedule, tokens in _progress("S3Gen warm-up", rounds):
            opened: list[SpeechStream] = []
            with suppress(Overloaded):  # there is memory for fewer
                while len(opened) < streams:
                    opened.append(self.open(voice, schedule=schedule, paced=False))
            for stream in opened:
                stream.begin_piece(0, 0.0)
                stream.feed([i % 6561 for i in range(tokens)], final=True)
                stream.finish()
            for stream in opened:
                final = False
                while not final:
                    _, final = stream.audio.read(timeout=_WARM_UP_S)


def _progress(what: str, rounds: Iterable[Item]) -> Iterable[Item]:
    """A bar on a terminal; nothing in a log."""
    return tqdm(rounds, desc=what, disable=None, leave=False)
