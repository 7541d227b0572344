"""Speaker: both stages of a model in one process, behind calls that every family shares."""

import os
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from chatterbox_engine.accel.device import pick_device
from chatterbox_engine.checkpoint import Checkpoint, find, from_reference
from chatterbox_engine.clip import read_clip
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.exporter import Exporter
from chatterbox_engine.metrics import Readings
from chatterbox_engine.readings import device_readings, s3gen_readings, t3_readings
from chatterbox_engine.stages import S3GenStage, T3Stage
from chatterbox_engine.text import split, validate
from chatterbox_engine.types import SAMPLE_RATE, SamplingParams
from chatterbox_engine.utterance import ANSWER_S, StreamingMetrics, Utterance
from chatterbox_engine.voice import Voice
from chatterbox_engine.voice_encoder import VoiceEncoder

if TYPE_CHECKING:
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS
    from chatterbox.tts import ChatterboxTTS, Conditionals
    from chatterbox.tts_turbo import ChatterboxTurboTTS

_WHOLE = (10**6,)
"""A chunk schedule that makes each piece in one chunk."""
_MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What any family's method may be given. None is the family's default."""

    text: str
    repetition_penalty: float | None = None
    min_p: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    exaggeration: float | None = None
    cfg_weight: float | None = None
    temperature: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    language_id: str | None = None
    audio_prompt_path: str | os.PathLike[str] | None = None
    norm_loudness: bool | None = None
    chunk_size: int | None = None
    context_window: int | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Call":
        """From a method's `locals()`, whatever order its parameters have."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def sampling(self) -> dict[str, Any]:
        """The settings of SamplingParams; without a seed, one is drawn from torch's generator."""
        given = {name: getattr(self, name) for name in SamplingParams.model_fields}
        return given | ({"seed": int(torch.randint(2**31, ()))} if self.seed is None else {})


class Speaker:
    """A model that speaks. Calls may come from several threads at once; they are batched.

    Close it, or leave it to the process's end. The families' classes add `generate` and `generate_stream` in
    chatterbox-tts's order of parameters.
    """

    sr = SAMPLE_RATE
    MODEL: ClassVar[str] = "auto"
    """What `from_pretrained` loads where it is not told."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        config: EngineConfig | None = None,
        metrics_port: int | None = None,
    ) -> None:
        """`metrics_port`: of this machine alone, where Prometheus finds its metrics (`metrics.SPECIFICATION`).

        Raises ModelUnavailable where the weights cannot be had, InvalidRequest where the device or port is not there.
        """
        self.config = config or EngineConfig.profile()
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        self.checkpoint = checkpoint
        self.device, _ = pick_device(device)
        self._voice = checkpoint.voice()
        self._exaggeration = 0.5
        self._encoder: VoiceEncoder | None = None
        self._encoding = threading.Lock()
        """An encoder's methods belong to one thread at a time."""
        self._exporter: Exporter | None = None
        self._t3 = T3Stage(checkpoint, self.config, self.device)
        try:
            self._s3gen = S3GenStage(checkpoint, self.config, self.device)
        except BaseException:
            self._t3.engine.stop()
            raise
        if metrics_port is not None:
            self._export(metrics_port)

    @classmethod
    def from_pretrained(
        cls,
        device: str = "auto",
        config: EngineConfig | None = None,
        *,
        model: str | None = None,
        optimizations: Mapping[str, Any] | None = None,
        metrics_port: int | None = None,
    ) -> Self:
        """The hub's model, or whatever `model` names; `optimizations` are switches of EngineConfig by name."""
        if optimizations is not None:
            if config is not None:
                raise InvalidRequest("Give either config or optimizations, not both.", "optimizations")
            config = EngineConfig.profile("balanced", **optimizations)
        picked, _ = pick_device(device)
        return cls(find(model or cls.MODEL, picked.type), device, config, metrics_port)

    @classmethod
    def from_local(
        cls,
        ckpt_dir: str | os.PathLike[str],
        device: str = "auto",
        config: EngineConfig | None = None,
        *,
        metrics_port: int | None = None,
    ) -> Self:
        """A folder in the hub's layout; `#NAME` after it says which model, where it holds several."""
        picked, _ = pick_device(device)
        return cls(find(str(Path(ckpt_dir).absolute()), picked.type), device, config, metrics_port)

    @classmethod
    def from_reference(
        cls,
        model: "ChatterboxTTS | ChatterboxMultilingualTTS | ChatterboxTurboTTS",
        config: EngineConfig | None = None,
        *,
        metrics_port: int | None = None,
    ) -> Self:
        """A model of chatterbox-tts that is in memory already; it is read and left as it is."""
        speaker = cls(from_reference(model), str(model.device), config, metrics_port)
        if model.conds is not None:
            speaker.conds = model.conds
        return speaker

    @classmethod
    def from_pretrained_with_warmup(cls, *args: Any, **kwargs: Any) -> Self:
        """`from_pretrained`, with the first calls' costs paid before it returns."""
        speaker = cls.from_pretrained(*args, **kwargs)
        voice = speaker._need_voice()
        speaker._t3.warm_up(voice)
        speaker._s3gen.warm_up(voice)
        return speaker

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
        """The valid speech tokens (n,) int64 that T3 makes of one piece of text, which is not split.

        In the profile `reference` they are what the reference's T3 yields after torch.manual_seed(seed).
        """
        call = Call.of(locals())
        params, language = self._settings(call)
        stream = self._t3.speak(validate(text, _MAX_CHARACTERS), self._need_voice(), params, language)
        tokens: list[int] = []
        final = False
        try:
            while not final:
                read, final = stream.read(params.max_new_tokens + 1, timeout=ANSWER_S)
                tokens += read
        finally:
            stream.close()
        return torch.tensor(tokens, dtype=torch.int64)

    def prepare_conditionals(
        self, wav_fpath: str | os.PathLike[str], exaggeration: float = 0.5, norm_loudness: bool = True
    ) -> None:
        """Take the voice of a clip for the calls that follow; the model's ClipSpec says how long it must be.

        It is brought to the family's loudness, where there is one, unless `norm_loudness` is False. Raises
        InvalidRequest.
        """
        self._prepared(Path(wav_fpath), exaggeration, norm_loudness)

    def _prepared(self, path: Path, exaggeration: float, norm_loudness: bool) -> Voice:
        """The clip's voice, which is that of the calls that follow, too."""
        rules = self.checkpoint.spec.clip
        clip = read_clip(path, min_s=rules.min_s, max_s=rules.max_s)
        with self._encoding:
            if self._encoder is None:
                self._encoder = self.checkpoint.voice_encoder()
            voice = self._encoder.encode(clip, path.stem[:64], norm_loudness=norm_loudness)
        self._voice, self._exaggeration = voice, exaggeration
        return voice

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
        if self._exporter is not None:
            self._exporter.close()

    def _export(self, port: int) -> None:
        try:
            self._exporter = Exporter(port, self._readings)
        except InvalidRequest:
            self.close()
            raise

    def _readings(self) -> list[tuple[str, Readings]]:
        t3, s3gen = t3_readings(self._t3.engine), s3gen_readings(self._s3gen.engine)
        device = device_readings(self.device)  # one for both: they share it
        return [("t3", t3), ("s3gen", s3gen), ("both", device)]

    def _whole(self, call: Call) -> Tensor:
        """The audio of a call, (1, samples). Raises InvalidRequest."""
        chunks = self._stream(call, _WHOLE)
        return torch.cat([torch.zeros(1, 0), *(chunk for chunk, _ in chunks)], dim=1)  # T3 may have nothing to say

    def _stream(
        self, call: Call, schedule: tuple[int, ...] | None = None
    ) -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
        """The audio of a call as it is made; refused here, and begun when it is first read. Raises InvalidRequest."""
        params, language = self._settings(call)
        pieces = split(validate(call.text, _MAX_CHARACTERS), self.checkpoint.spec.piece_characters, language)
        if call.chunk_size is not None:
            schedule = (_whole_number(call.chunk_size, "chunk_size", 1),)
        window = call.context_window
        if window is not None:
            window = _whole_number(window, "context_window", 0)
        if call.audio_prompt_path is None:
            voice = self._need_voice()
        else:  # another thread's clip may come meanwhile
            level = call.norm_loudness is not False
            voice = self._prepared(Path(call.audio_prompt_path), params.exaggeration, level)

        def speak() -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
            utterance = Utterance(self._t3, self._s3gen, voice, pieces, params, language, schedule, window)
            yield from utterance.chunks() if self._exporter is None else self._exporter.watched(utterance.chunks())

        return speak()

    def _settings(self, call: Call) -> tuple[SamplingParams, str]:
        """What a call asks for over the family's defaults, and its language. Raises InvalidRequest."""
        spec = self.checkpoint.spec
        return spec.sampling_for(call.sampling()), spec.language_for(call.language_id, "language_id")

    def _need_voice(self) -> Voice:
        if self._voice is None:
            raise InvalidRequest(
                "This checkpoint has no built-in voice: call prepare_conditionals(path) or give audio_prompt_path.",
                "audio_prompt_path",
            )
        return self._voice


def _whole_number(value: int, name: str, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number of at least {least}.", name)
    return value
