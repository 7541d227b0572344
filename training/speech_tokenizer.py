"""Speech tokens: finite scalar quantisation (2309.15505) of the teacher's mels, taught to keep phonemes and pitch.

As CosyVoice's tokens (2412.10117) it is supervised: what the codes must tell is which phoneme is heard, how high, and
the mel only roughly. A second network guesses the codes from phonemes and pitch, and both draw near each other: what
cannot be told from the text would only be noise to T3.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from chatterbox_engine.types import FRAMES_PER_TOKEN
from training import dimensions, loop, symbols
from training.corpus import MEL_BINS, Corpus

DIGITS, LEVELS = 8, 3
STEPS = 1500
RATE = 1.5e-3
BATCH_FRAMES = 6000
GUESS_WEIGHT = 3.0
"""Of the distance between the codes and what phonemes and pitch tell of them."""
WINDOW = 150
"""Frames of a training window, 3 s."""
_WIDTH = 192
_F0_MIDDLE, _F0_SPREAD = 5.2, 0.3
"""Of log Hz: 180 Hz and its swing."""


class _Block(nn.Module):
    """ConvNeXt in one dimension (2201.03545)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W)"""
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(y))))


def _blocks(count: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(_WIDTH, kernel) for _ in range(count)))


class SpeechTokenizer(nn.Module):
    """Mel frames, two to a token -> codes below 3^8."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(MEL_BINS, _WIDTH)
        self.frames = _blocks(3, 5)
        self.join = nn.Linear(FRAMES_PER_TOKEN * _WIDTH, _WIDTH)
        self.tokens = _blocks(2, 3)
        self.level = nn.LayerNorm(_WIDTH)  # all levels are in use from the first step, and none is saturated
        self.code = nn.Linear(_WIDTH, DIGITS)

        self.phoneme = nn.Embedding(symbols.START, _WIDTH)
        self.pitch = nn.Linear(2, _WIDTH)
        self.guess_frames = _blocks(3, 5)
        self.guess_join = nn.Linear(FRAMES_PER_TOKEN * _WIDTH, _WIDTH)
        self.guess_tokens = _blocks(1, 3)
        self.guess_code = nn.Linear(_WIDTH, DIGITS)

        self.spread = nn.Linear(DIGITS, _WIDTH)
        self.decode_tokens = _blocks(2, 3)
        self.part = nn.Linear(_WIDTH, FRAMES_PER_TOKEN * _WIDTH)
        self.decode_frames = _blocks(1, 5)
        self.heads = nn.Linear(_WIDTH, symbols.START + 2 + MEL_BINS)

    def soft(self, mel: Tensor) -> Tensor:
        """mel (B, F, 80) -> (B, F / 2, 8) in (-1, 1), which round to the digits."""
        x = self.frames(self.enter((mel + 6.0) / 3.0))
        return torch.tanh(
            self.code(self.level(self.tokens(self.join(x.unflatten(1, (-1, FRAMES_PER_TOKEN)).flatten(2)))))
        )

    def guess(self, heard: Tensor, pitch: Tensor) -> Tensor:
        """Phonemes (B, F) and pitch (B, F, 2) -> what `soft` may be, (B, F / 2, 8)."""
        x = self.guess_frames(self.phoneme(heard) + self.pitch(pitch))
        x = self.guess_join(x.unflatten(1, (-1, FRAMES_PER_TOKEN)).flatten(2))
        return torch.tanh(self.guess_code(self.guess_tokens(x)))

    def tell(self, digits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Digits (B, T, 8) -> phoneme logits (B, 2T, V), pitch (B, 2T, 2), mel (B, 2T, 80)."""
        x = self.part(self.decode_tokens(self.spread(digits))).unflatten(2, (FRAMES_PER_TOKEN, -1)).flatten(1, 2)
        made = self.heads(self.decode_frames(x))
        return made.split((symbols.START, 2, MEL_BINS), dim=-1)

    def encode(self, mel: Tensor) -> Tensor:
        """mel (B, F, 80) -> codes (B, F / 2) int64"""
        digits = self.soft(mel).round().long() + 1
        return (digits * LEVELS ** torch.arange(DIGITS)).sum(-1)


def _pitch(f0: Tensor) -> Tensor:
    """Hz (B, F) -> (B, F, 2): whether voiced, and log pitch around its middle, 0 where not."""
    voiced = f0 > 0
    height = torch.where(voiced, (f0.clamp(min=1.0).log() - _F0_MIDDLE) / _F0_SPREAD, 0.0)
    return torch.stack((voiced.float(), height), dim=-1)


def _losses(model: SpeechTokenizer, mel: Tensor, heard: Tensor, f0: Tensor) -> dict[str, Tensor]:
    soft = model.soft(mel)
    digits = soft + (soft.round() - soft).detach()
    phonemes, pitch, rough = model.tell(digits)
    true = _pitch(f0)
    voiced = true[..., 0]
    height = F.smooth_l1_loss(pitch[..., 1], true[..., 1], reduction="none", beta=0.2)
    guessed = model.guess(heard, true)
    return {
        "phoneme": F.cross_entropy(phonemes.flatten(0, 1), heard.flatten(), label_smoothing=0.02),
        "voiced": 0.3 * F.binary_cross_entropy_with_logits(pitch[..., 0], voiced),
        "height": 1.0 * (height * voiced).sum() / voiced.sum(),
        "mel": 0.25 * F.l1_loss(rough, mel),
        "guess": GUESS_WEIGHT * F.mse_loss(guessed, soft),
    }


def run(corpus: Corpus, folder: Path, steps: int = STEPS) -> None:
    """Train the tokenizer (`folder/speech_tokenizer.pt`) and write the corpus's tokens (`folder/tokens.i16`)."""
    torch.manual_seed(1)
    model = SpeechTokenizer()
    sounds = [np.array(symbols.heard(corpus[index].phonemes))[corpus[index].symbols] for index in range(len(corpus))]
    heard = np.concatenate(sounds)
    rows = BATCH_FRAMES // WINDOW

    def batch(generator: torch.Generator, lowest: int, highest: int) -> tuple[Tensor, Tensor, Tensor]:
        starts = torch.randint(lowest // 2, highest // 2, (rows,), generator=generator).tolist()
        mel = np.stack([corpus.mel_at(2 * start, WINDOW) for start in starts])
        own = np.stack([heard[2 * start : 2 * start + WINDOW] for start in starts])
        f0 = np.stack([corpus.f0_at(2 * start, WINDOW) for start in starts])
        return torch.from_numpy(mel), torch.from_numpy(own), torch.from_numpy(f0)

    first, last = corpus.start(corpus.held_out), len(heard) - WINDOW

    def losses(step: int) -> dict[str, Tensor]:
        return _losses(model, *batch(torch.Generator().manual_seed(step), first, last))

    def validate() -> dict[str, float]:
        mel, own, f0 = batch(torch.Generator().manual_seed(0), 0, first - WINDOW)
        parts = {name: float(value) for name, value in _losses(model, mel, own, f0).items()}
        right = model.tell(model.soft(mel).round())[0].argmax(-1) == own
        guessed = model.guess(own, _pitch(f0)).round() == model.soft(mel).round()
        return {**parts, "phonemes_right": float(right.float().mean()), "digits_guessed": float(guessed.float().mean())}

    loop.train(
        "speech_tokenizer", model, losses, steps=steps, rate=RATE, folder=folder,
        log=dimensions.LOGS / "speech_tokenizer.jsonl", validate=validate,
    )  # fmt: skip
    _write_tokens(model, corpus, folder / "tokens.i16")


def _write_tokens(model: SpeechTokenizer, corpus: Corpus, path: Path) -> None:
    """Each utterance's tokens, one after the other, half as many as its frames."""
    with path.open("wb") as file, torch.inference_mode():
        for index in tqdm(range(len(corpus)), "Tokens", disable=None):
            mel = torch.from_numpy(corpus[index].mel.astype(np.float32))[None]
            file.write(model.encode(mel)[0].numpy().astype(np.int16).tobytes())


def tokens(corpus: Corpus, folder: Path) -> list[NDArray[np.int16]]:
    """What `run` wrote, by utterance."""
    flat = np.fromfile(folder / "tokens.i16", np.int16)
    ends = np.cumsum([corpus.frames(index) // FRAMES_PER_TOKEN for index in range(len(corpus))])
    return np.split(flat, ends[:-1])
