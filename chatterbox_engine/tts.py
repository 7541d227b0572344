"""OptimizedChatterboxTTS: the drop-in class, both stages in one process."""

import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from chatterbox_engine.accel.device import pick_device
from chatterbox_engine.accel.noise import derive_seed
from chatterbox_engine.checkpoint import Checkpoint, find, from_reference
from chatterbox_engine.clip import read_clip
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.s3gen.stream import SpeechStream
from chatterbox_engine.stages import S3GenStage, T3Stage
from chatterbox_engine.text import Piece, split, validate
from chatterbox_engine.types import SAMPLE_RATE, SamplingParams
from chatterbox_engine.voice import Voice
from chatterbox_engine.voice_encoder import VoiceEncoder

if TYPE_CHECKING:
    from chatterbox.tts import ChatterboxTTS, Conditionals

_ANSWER_S = 600.0
"""Seconds without any answer from an engine after which it counts as dead."""
_WHOLE = (10**6,)
"""A chunk schedule that makes each piece in one chunk."""
_MAX_CHARACTERS = 1_000_000


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


class OptimizedChatterboxTTS:
    """`chatterbox.tts.ChatterboxTTS`, with the same calls and the fast engine behind them.

    Calls may come from several threads at once; they are batched. Close it, or leave it to the process's end.
    """

    sr = SAMPLE_RATE

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", config: EngineConfig | None = None) -> None:
        """Raises ModelUnavailable where the weights cannot be had, InvalidRequest where the device is not there."""
        self.config = config or EngineConfig.profile()
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        self.checkpoint = checkpoint
        self.device, _ = pick_device(device)
        self._voice = checkpoint.voice()
        self._exaggeration = 0.5
        self._encoder: VoiceEncoder | None = None
        self._t3 = T3Stage(checkpoint, self.config, self.device)
        try:
            self._s3gen = S3GenStage(checkpoint, self.config, self.device)
        except BaseException:
            self._t3.engine.stop()
            raise

    @classmethod
    def from_pretrained(
        cls,
        device: str = "auto",
        config: EngineConfig | None = None,
        *,
        model: str = "auto",
        optimizations: Mapping[str, Any] | None = None,
    ) -> "OptimizedChatterboxTTS":
        """The hub's model, or whatever `model` names; `optimizations` are switches of EngineConfig by name."""
        if optimizations is not None:
            if config is not None:
                raise InvalidRequest("Give either config or optimizations, not both.", "optimizations")
            config = EngineConfig.profile("balanced", **optimizations)
        picked, _ = pick_device(device)
        return cls(find(model, picked.type), device, config)

    @classmethod
    def from_local(
        cls, ckpt_dir: str | os.PathLike[str], device: str = "auto", config: EngineConfig | None = None
    ) -> "OptimizedChatterboxTTS":
        """A folder in the hub's layout."""
        picked, _ = pick_device(device)
        return cls(find(str(Path(ckpt_dir).absolute()), picked.type), device, config)

    @classmethod
    def from_reference(cls, model: "ChatterboxTTS", config: EngineConfig | None = None) -> "OptimizedChatterboxTTS":
        """A ChatterboxTTS that is in memory already; it is read and left as it is."""
        tts = cls(from_reference(model), str(model.device), config)
        if model.conds is not None:
            tts.conds = model.conds
        return tts

    @classmethod
    def from_pretrained_with_warmup(cls, *args: Any, **kwargs: Any) -> "OptimizedChatterboxTTS":
        """`from_pretrained`, with the first calls' costs paid before it returns."""
        tts = cls.from_pretrained(*args, **kwargs)
        voice = tts._need_voice()
        tts._t3.warm_up(voice)
        tts._s3gen.warm_up(voice)
        return tts

    def generate(
        self,
        text: str,
        repetition_penalty: float | None = None,
        min_p: float | None = None,
        top_p: float | None = None,
        audio_prompt_path: str | os.PathLike[str] | None = None,
        exaggeration: float | None = None,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        *,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        language_id: str | None = None,
        top_k: int | None = None,
    ) -> Tensor:
        """Speak a text of any length; float32 (1, samples) at 24 kHz.

        None is the family's default. The same seed gives the same audio; None draws one from torch's generator.
        Raises InvalidRequest.
        """
        stream = self.generate_stream(
            text, repetition_penalty, min_p, top_p, audio_prompt_path, exaggeration, cfg_weight, temperature,
            chunk_size=_WHOLE[0], seed=seed, max_new_tokens=max_new_tokens, language_id=language_id, top_k=top_k,
        )  # fmt: skip
        return torch.cat([torch.zeros(1, 0), *(chunk for chunk, _ in stream)], dim=1)  # T3 may have nothing to say

    def generate_stream(
        self,
        text: str,
        repetition_penalty: float | None = None,
        min_p: float | None = None,
        top_p: float | None = None,
        audio_prompt_path: str | os.PathLike[str] | None = None,
        exaggeration: float | None = None,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        *,
        chunk_size: int | None = None,
        context_window: int | None = None,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        language_id: str | None = None,
        top_k: int | None = None,
    ) -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
        """`generate`, chunk by chunk: ((1, samples), metrics) pairs. Closing the generator cancels.

        `chunk_size` is in speech tokens (25 a second); None is the configuration's schedule, which starts small and
        grows. `context_window` is how many earlier tokens the flow sees again with each chunk; None: all of them.
        """
        params = self._params(
            repetition_penalty, min_p, top_p, exaggeration, cfg_weight, temperature, seed, max_new_tokens,
            language_id, top_k,
        )  # fmt: skip
        pieces = split(validate(text, _MAX_CHARACTERS))
        schedule = None if chunk_size is None else (_whole_number(chunk_size, "chunk_size", 1),)
        if context_window is not None:
            context_window = _whole_number(context_window, "context_window", 0)
        if audio_prompt_path is not None:
            self.prepare_conditionals(audio_prompt_path, params.exaggeration)
        return self._chunks(pieces, self._need_voice(), params, schedule, context_window)

    def speech_tokens(
        self,
        text: str,
        repetition_penalty: float | None = None,
        min_p: float | None = None,
        top_p: float | None = None,
        exaggeration: float | None = None,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        *,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        language_id: str | None = None,
        top_k: int | None = None,
    ) -> Tensor:
        """The valid speech tokens (n,) int64 that S3Gen gets for one piece of text, which is not split.

        In the profile `reference` they are what the reference's T3 yields after torch.manual_seed(seed).
        """
        params = self._params(
            repetition_penalty, min_p, top_p, exaggeration, cfg_weight, temperature, seed, max_new_tokens,
            language_id, top_k,
        )  # fmt: skip
        stream = self._t3.speak(validate(text, _MAX_CHARACTERS), self._need_voice(), params)
        tokens: list[int] = []
        final = False
        try:
            while not final:
                read, final = stream.read(params.max_new_tokens + 1, timeout=_ANSWER_S)
                tokens += read
        finally:
            stream.close()
        return torch.tensor(tokens, dtype=torch.int64)

    def prepare_conditionals(self, wav_fpath: str | os.PathLike[str], exaggeration: float = 0.5) -> None:
        """Take the voice of a clip of 3 to 30 s for the calls that follow. Raises InvalidRequest."""
        clip = read_clip(Path(wav_fpath))
        if self._encoder is None:
            self._encoder = self.checkpoint.voice_encoder()
        self._voice = self._encoder.encode(clip, name=Path(wav_fpath).stem[:64])
        self._exaggeration = exaggeration

    @property
    def conds(self) -> "Conditionals | None":
        """The present voice as chatterbox-tts's own Conditionals; may be assigned."""
        if self._voice is None:
            return None
        return self._voice.to_conditionals(self._exaggeration)

    @conds.setter
    def conds(self, conds: "Conditionals") -> None:
        self._voice = Voice.from_conditionals(conds, name="conds", model=self.checkpoint.spec.name)
        self._exaggeration = float(torch.as_tensor(conds.t3.emotion_adv).reshape(-1)[0])

    def close(self) -> None:
        """End the engines' threads. Streams that are open end with EngineDead."""
        self._t3.engine.stop()
        self._s3gen.engine.stop()

    def _need_voice(self) -> Voice:
        if self._voice is None:
            raise InvalidRequest(
                "This checkpoint has no built-in voice: call prepare_conditionals(path) or give audio_prompt_path.",
                "audio_prompt_path",
            )
        return self._voice

    def _params(
        self,
        repetition_penalty: float | None,
        min_p: float | None,
        top_p: float | None,
        exaggeration: float | None,
        cfg_weight: float | None,
        temperature: float | None,
        seed: int | None,
        max_new_tokens: int | None,
        language_id: str | None,
        top_k: int | None,
    ) -> SamplingParams:
        """The caller's settings over the family's defaults. Raises InvalidRequest."""
        family = self.checkpoint.spec.family
        if language_id not in (None, "en"):
            raise InvalidRequest(f"{family} speaks English only, not {language_id!r}.", "language_id")
        if top_k is not None:
            raise InvalidRequest(f"{family} has no top_k: use min_p or top_p.", "top_k")
        given = {
            "repetition_penalty": repetition_penalty,
            "min_p": min_p,
            "top_p": top_p,
            "exaggeration": exaggeration,
            "cfg_weight": cfg_weight,
            "temperature": temperature,
            "seed": int(torch.randint(2**31, ())) if seed is None else seed,
            "max_new_tokens": max_new_tokens,
        }
        return SamplingParams.checked({name: value for name, value in given.items() if value is not None})

    def _chunks(
        self,
        pieces: Sequence[Piece],
        voice: Voice,
        params: SamplingParams,
        schedule: tuple[int, ...] | None,
        context_window: int | None,
    ) -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
        begin = time.monotonic()
        utterance = _Utterance(self._t3, self._s3gen, voice, pieces, params, schedule, context_window)
        first, seconds, count, final = 0.0, 0.0, 0, False
        try:
            while not final:
                read, final = utterance.stream.audio.read(timeout=_ANSWER_S)
                if not read:
                    continue
                samples = np.concatenate(read)
                elapsed = time.monotonic() - begin
                first, count = first or elapsed, count + 1
                seconds += len(samples) / SAMPLE_RATE
                metrics = StreamingMetrics(first, elapsed / seconds, elapsed, seconds, count)
                yield torch.from_numpy(samples)[None], metrics
        finally:
            utterance.cancel()


class _Utterance:
    """A text on its way through both stages: a thread hands T3's tokens to S3Gen, piece after piece."""

    def __init__(
        self,
        t3: T3Stage,
        s3gen: S3GenStage,
        voice: Voice,
        pieces: Sequence[Piece],
        params: SamplingParams,
        schedule: tuple[int, ...] | None,
        context_window: int | None,
    ) -> None:
        self.stream: SpeechStream = s3gen.open(voice, schedule=schedule, context_window=context_window, paced=False)
        self._t3 = t3
        self._voice = voice
        self._tokens: Mailbox[int] | None = None
        self._cancelled = False
        self._thread = threading.Thread(target=self._feed, args=(pieces, params), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End both stages' work on it; safe after the end."""
        self._cancelled = True
        self.stream.audio.close()
        if self._tokens is not None:
            self._tokens.close()

    def _feed(self, pieces: Sequence[Piece], params: SamplingParams) -> None:
        try:
            for index, piece in enumerate(pieces):
                seed = derive_seed(params.seed, index)
                tokens = self._t3.speak(piece.text, self._voice, params.model_copy(update={"seed": seed}))
                self._tokens = tokens
                if self._cancelled:
                    tokens.close()
                sizes = self.stream.begin_piece(seed, piece.pause_s)
                final, chunk = False, 0
                while not final:
                    read, final = tokens.read(sizes[min(chunk, len(sizes) - 1)], timeout=_ANSWER_S)
                    if self._cancelled:
                        tokens.close()
                        return
                    self.stream.feed(read, final=final)
                    chunk += 1
            self.stream.finish()
        except BaseException as error:
            self.stream.audio.fail(error)


def _whole_number(value: int, name: str, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number of at least {least}.", name)
    return value
