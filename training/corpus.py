"""The teacher's speech as arrays on disk: mel, phonemes by frame, pitch, and of a part of it the audio itself."""

import json
import multiprocessing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from chatterbox_engine.files import whole
from chatterbox_engine.types import SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN
from training import texts
from training.teacher import DURATION_SAMPLES, F0_SAMPLES, Teacher

MEL_BINS = 80
_MEL_MIDDLE, MEL_SPREAD = -5.3, 2.9
"""Mean and standard deviation of the teacher's log mels. The flow makes mels less this mean, with this spread."""
LONGEST_S = 13.0
_SHARD = 500
NEUTRAL = 0.5
_HELD_OUT = 200
_REMARK_EVERY = 4
"""Utterances for each one of two or three very short sentences; those come at the end."""


@dataclass(frozen=True)
class Utterance:
    """One of the corpus; F mel frames, an even number."""

    mel: NDArray[np.float16]
    """(F, 80) log mel, as S3Gen's flow makes it."""
    symbols: NDArray[np.int16]
    """(F,) place of the phoneme spoken in each frame: 0 the silence before, i the i-th of `phonemes` from 1 on."""
    f0: NDArray[np.float32]
    """(F,) Hz, 0 unvoiced."""
    phonemes: str
    exaggeration: float


class Corpus:
    """All utterances of a folder, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = json.loads((folder / "index.json").read_text())
        frames = [entry["frames"] for entry in self._index]
        self._starts = np.concatenate(([0], np.cumsum(frames)))
        total = int(self._starts[-1])
        self._mel = np.memmap(folder / "mel.f16", np.float16, "r", shape=(total, MEL_BINS))
        self._symbols = np.memmap(folder / "symbols.i16", np.int16, "r", shape=(total,))
        self._f0 = np.memmap(folder / "f0.f32", np.float32, "r", shape=(total,))

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Utterance:
        frames = slice(self._starts[index], self._starts[index + 1])
        entry = self._index[index]
        return Utterance(
            self._mel[frames], self._symbols[frames], self._f0[frames], entry["phonemes"], entry["exaggeration"]
        )

    def frames(self, index: int) -> int:
        return int(self._starts[index + 1] - self._starts[index])

    @property
    def held_out(self) -> int:
        """So many of the first utterances no stage trains on; its validation losses are theirs."""
        return min(_HELD_OUT, len(self) // 10)

    @cached_property
    def audio(self) -> NDArray[np.int16]:
        """(frames * 480,) of the utterances from the first on, as many as were kept."""
        return np.memmap(self._folder / "audio.i16", np.int16, "r")

    @cached_property
    def with_audio(self) -> int:
        """So many of the first utterances have their audio."""
        return int(np.searchsorted(self._starts * SAMPLES_PER_FRAME, len(self.audio), side="right")) - 1

    def mel_at(self, frame: int, count: int) -> NDArray[np.float32]:
        """(count, 80) from a frame of the whole corpus on, standardised."""
        return standardised(self._mel[frame : frame + count])

    def f0_at(self, frame: int, count: int) -> NDArray[np.float32]:
        """(count,) Hz."""
        return np.array(self._f0[frame : frame + count])

    def start(self, index: int) -> int:
        """The utterance's first frame among those of the whole corpus."""
        return int(self._starts[index])


def standardised(mel: NDArray[np.float16]) -> NDArray[np.float32]:
    """Log mels of any shape, in units of the corpus's spread around its mean."""
    return (mel.astype(np.float32) - _MEL_MIDDLE) / MEL_SPREAD


def mel_of(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """(samples,) at 24 kHz, whole frames -> (F, 80) log mel by chatterbox-tts's own transform."""
    from chatterbox.models.s3gen.utils.mel import mel_spectrogram

    return mel_spectrogram(torch.from_numpy(audio)[None])[0].T.numpy()


def make(folder: Path, count: int, audio_hours: float, wordnet: Path, workers: int) -> None:
    """Let the teacher say `count` texts and, after them, remarks.

    Shards that are there are kept, so that it goes on where it was stopped.
    """
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    said = [*texts.utterances(count, wordnet=wordnet), *texts.remarks(count // _REMARK_EVERY, wordnet=wordnet)]
    jobs = [(shards / f"{start:06d}.npz", start, said[start : start + _SHARD]) for start in range(0, len(said), _SHARD)]
    todo = [job for job in jobs if not job[0].is_file()]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_make_shard, todo), "Teacher", len(todo), unit="shard", disable=None):
            pass
    _join(folder, [job[0] for job in jobs], audio_hours)


def _make_shard(job: tuple[Path, int, list[str]]) -> None:
    path, start, said = job
    torch.set_num_threads(1)
    teacher = Teacher()
    kept: dict[str, list[np.ndarray]] = {"mel": [], "symbols": [], "f0": [], "audio": []}
    entries = []
    for index, text in enumerate(said, start):
        draw = np.random.default_rng(index)
        exaggeration = NEUTRAL if draw.random() < 0.6 else round(float(draw.random()), 2)
        spoken = teacher.say(text, exaggeration, seed=index)
        if len(spoken.audio) > LONGEST_S * SAMPLE_RATE or len(spoken.durations) != len(spoken.phonemes) + 2:
            continue
        audio = np.pad(spoken.audio, (0, -len(spoken.audio) % SAMPLES_PER_TOKEN)).astype(np.float32)
        frames = len(audio) // SAMPLES_PER_FRAME
        middles = (np.arange(frames) + 0.5) * SAMPLES_PER_FRAME
        ends = np.cumsum(spoken.durations) * DURATION_SAMPLES
        kept["symbols"].append(np.minimum(np.searchsorted(ends, middles, "right"), len(ends) - 1).astype(np.int16))
        kept["f0"].append(spoken.f0[np.minimum((middles / F0_SAMPLES).astype(int), len(spoken.f0) - 1)])
        kept["mel"].append(mel_of(audio)[:frames].astype(np.float16))
        kept["audio"].append((np.clip(audio, -1, 1) * 32767).astype(np.int16))
        entries.append({"frames": frames, "phonemes": spoken.phonemes, "exaggeration": exaggeration, "text": text})
    arrays = {name: np.concatenate(parts) for name, parts in kept.items()}
    with whole(path) as part:
        np.savez(part, index=np.array(json.dumps(entries)), **arrays)  # type: ignore[arg-type]


def _join(folder: Path, shards: list[Path], audio_hours: float) -> None:
    index = []
    left = int(audio_hours * 3600 * SAMPLE_RATE)
    names = {"mel": "mel.f16", "symbols": "symbols.i16", "f0": "f0.f32", "audio": "audio.i16"}
    files = {name: (folder / file).open("wb") for name, file in names.items()}
    for shard in shards:
        with np.load(shard) as arrays:
            index += json.loads(str(arrays["index"]))
            for name in ("mel", "symbols", "f0"):
                files[name].write(arrays[name].tobytes())
            if left > 0:
                audio = arrays["audio"]
                left -= len(audio)
                files["audio"].write(audio.tobytes())
    for file in files.values():
        file.close()
    (folder / "index.json").write_text(json.dumps(index))
