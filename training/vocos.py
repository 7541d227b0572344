"""Vocos for any model's mels, distilled from its HiFT: the model speaks, Vocos learns to make the same of its mels."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from chatterbox_engine.accel.device import pick_device
from chatterbox_engine.checkpoint import VOCOS_SPEC, Checkpoint, find
from chatterbox_engine.clip import read_clip
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.files import whole
from chatterbox_engine.s3gen.vocoder import Vocoder
from chatterbox_engine.s3gen.vocos import Vocos
from chatterbox_engine.stages import S3GenStage, T3Stage
from chatterbox_engine.text import split
from chatterbox_engine.types import SAMPLES_PER_FRAME
from chatterbox_engine.utterance import Utterance
from chatterbox_engine.voice import Voice
from chatterbox_engine.weights import RandomWeights
from training import dimensions, loop
from training.checkpoint import stored
from training.modules import begin
from training.vocoder import spectral_distance

TEXTS = 500
"""Half an hour, with the bundled model."""
HELD_OUT = 20
"""Utterances that it does not learn from."""
AT_ONCE = 8
SEGMENT_FRAMES = 64
BATCH = 8
STEPS = 2000
RATE = 1.5e-3
_QUIET = -2.0
"""Log magnitudes at first, about those of speech."""
_SMALL = 0.3
"""Scale of the last layer's weights at first."""


@dataclass
class _Overheard:
    stream: Any
    mels: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)


class Recorder:
    """What a model's vocoder is given and makes of it: mels (F, 80) and audio (480 F,) of each piece of text."""

    def __init__(self) -> None:
        self.mels: list[NDArray[np.float16]] = []
        self.audio: list[NDArray[np.int16]] = []

    def beside(self, vocoder: Vocoder[Any, Any]) -> Vocoder[Any, _Overheard]:
        """The same vocoder, overheard."""

        def run(
            network: nn.Module, streams: Sequence[_Overheard], mels: Sequence[Tensor], final: Sequence[bool]
        ) -> list[Tensor]:
            made = vocoder.advance([own.stream for own in streams], mels, final)
            for own, mel, samples, last in zip(streams, mels, made, final, strict=True):
                own.mels.append(mel.half().cpu())
                own.samples.append((samples * 32767).round().short().cpu())
                if last:
                    self.mels.append(torch.cat(own.mels, dim=1).T.numpy())
                    self.audio.append(torch.cat(own.samples).numpy())
            return made

        return Vocoder(vocoder.network, lambda seed: _Overheard(vocoder.open(seed)), run)


def speak(
    checkpoint: Checkpoint, texts: Iterable[str], voices: Sequence[Voice], device: torch.device, to: Path
) -> None:
    """Have the model say texts, voices in turn, and keep its mels and HiFT's audio of them in the file `to` (.npz)."""
    config = EngineConfig.profile(
        "balanced", watermark=False, t3={"max_streams": AT_ONCE}, s3gen={"max_streams": AT_ONCE, "admission": "places"}
    )
    spec = checkpoint.spec
    t3, s3gen = T3Stage(checkpoint, config, device), S3GenStage(checkpoint, config, device)
    recorder = Recorder()
    s3gen.model.vocoder = recorder.beside(s3gen.model.vocoder)

    def say(task: tuple[int, str]) -> None:
        index, text = task
        pieces = split(text, spec.piece_characters, spec.language)
        params = spec.sampling_for({"seed": index})
        voice = voices[index % len(voices)]
        for _ in Utterance(t3, s3gen, voice, pieces, params, spec.language, None, None).chunks():
            pass

    tasks = list(enumerate(texts))
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(tqdm(pool.map(say, tasks), "Speaking", total=len(tasks), disable=None))
    finally:
        t3.engine.stop()
        s3gen.engine.stop()
    frames = np.array([len(mel) for mel in recorder.mels])
    with whole(to) as part:
        np.savez(part, mels=np.concatenate(recorder.mels), audio=np.concatenate(recorder.audio), frames=frames,
                 model=np.array(checkpoint.model))  # fmt: skip


class Windows:
    """Windows of what a model spoke, none of which spans two pieces; the first HELD_OUT pieces are held out."""

    def __init__(self, file: Path, model: str) -> None:
        """Raises InvalidRequest where another model spoke, or too little."""
        with np.load(file) as told:
            if str(told["model"]) != model:
                raise InvalidRequest(f"{file} is {told['model']}'s speech: give another --folder.", "folder")
            self._mels, self._audio = told["mels"], told["audio"]
            frames = told["frames"]
        ends = np.cumsum(frames)
        starts = [np.arange(end - count, end - SEGMENT_FRAMES + 1) for count, end in zip(frames, ends, strict=True)]
        held_out = min(HELD_OUT, len(starts) // 2)
        self._held_out, self._trained = (
            np.concatenate((np.empty(0, int), *own)) for own in (starts[:held_out], starts[held_out:])
        )
        if not (len(self._held_out) and len(self._trained)):
            raise InvalidRequest(f"{file} has too little speech: give more texts.", "texts")

    def trained(self, seed: int, rows: int) -> tuple[Tensor, Tensor]:
        """Mels (B, 80, F) and their audio (B, 480 F)."""
        return self._drawn(self._trained, seed, rows)

    def held_out(self, seed: int, rows: int) -> tuple[Tensor, Tensor]:
        return self._drawn(self._held_out, seed, rows)

    def _drawn(self, starts: NDArray[np.int64], seed: int, rows: int) -> tuple[Tensor, Tensor]:
        drawn = np.random.default_rng(seed).choice(starts, rows)
        mels = np.stack([self._mels[start : start + SEGMENT_FRAMES] for start in drawn]).astype(np.float32)
        size = SAMPLES_PER_FRAME
        audio = np.stack([self._audio[size * start : size * (start + SEGMENT_FRAMES)] for start in drawn])
        return torch.from_numpy(mels).transpose(1, 2).contiguous(), torch.from_numpy(audio.astype(np.float32) / 32767)


def fresh(checkpoint: Checkpoint, seed: int = 5) -> Vocos:
    """A Vocos of the model's dimensions that has learned nothing."""
    spec = checkpoint.spec.s3gen
    with torch.device("meta"):
        vocos = Vocos(spec.vocos, spec.mel_bins)
    begin(vocos, RandomWeights(seed))
    with torch.no_grad():
        for block in vocos.backbone.convnext:
            block.get_parameter("gamma").fill_(1 / spec.vocos.layers)
        vocos.head.out.weight.mul_(_SMALL)
        vocos.head.out.bias[: spec.vocos.n_fft // 2 + 1] = _QUIET
    return vocos


def run(
    model: str, folder: Path, to: Path, texts: Iterable[str], clips: Sequence[Path] = (), steps: int = STEPS
) -> None:
    """Let the model speak, where `folder` has not kept it, and train; the checkpoint becomes `to/vocos.safetensors`."""
    device, _ = pick_device("auto")
    checkpoint = find(model, device.type)
    speech = folder / "vocos.npz"
    if not speech.is_file():
        speak(checkpoint, texts, _voices(checkpoint, clips), device, speech)
    windows = Windows(speech, checkpoint.model)
    vocos = fresh(checkpoint).to(device)
    backbone = torch.compile(loop.reduced()(vocos.backbone)) if steps >= loop.WORTH_COMPILING else vocos.backbone

    def distance(mel: Tensor, wave: Tensor) -> Tensor:
        return spectral_distance(vocos.head(backbone(mel.to(device)).float()), wave.to(device))

    def losses(step: int) -> dict[str, Tensor]:
        return {"spectral": distance(*windows.trained(step, BATCH))}

    def validate() -> dict[str, float]:
        return {"spectral": float(distance(*windows.held_out(0, 4 * BATCH)))}

    loop.train(
        "vocos", vocos, losses, steps=steps, rate=RATE, folder=folder, log=dimensions.LOGS / "vocos.jsonl",
        validate=validate, weight_decay=0.0,
    )  # fmt: skip
    write(vocos, to / checkpoint.spec.files.vocos)


def _voices(checkpoint: Checkpoint, clips: Sequence[Path]) -> list[Voice]:
    """Those of the clips, or the built-in one. Raises InvalidRequest where there is none."""
    rules = checkpoint.spec.clip
    if clips:
        encoder = checkpoint.voice_encoder()
        return [encoder.encode(read_clip(clip, min_s=rules.min_s, max_s=rules.max_s), clip.stem[:64]) for clip in clips]
    voice = checkpoint.voice()
    if voice is None:
        raise InvalidRequest(f"{checkpoint.model} has no built-in voice: give --clips.", "clips")
    return [voice]


def write(vocos: Vocos, to: Path) -> None:
    """A file that the engine takes: matrices in 8 bits with a scale a row, the rest in 16, and the spec beside them."""
    to.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu() for name, tensor in vocos.state_dict().items()}
    with whole(to) as part:
        save_file(stored(state), part, {VOCOS_SPEC: vocos.spec.model_dump_json()})
