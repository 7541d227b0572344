"""The flow: speech tokens -> mel, by conditional flow matching (2210.02747) with optimal-transport paths."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chatterbox_engine.s3gen.flow import Flow
from training import dimensions, loop, speech_tokenizer
from training.corpus import Corpus
from training.modules import fresh

STEPS = 1000
RATE = 1.5e-3
BATCH = 32
WINDOW_TOKENS = 64
UNGUIDED = 0.15
"""Share of windows whose conditions are hidden from the estimator."""
PROMPTED = 0.6
"""Share of windows whose beginning is given as a prompt."""
LONGEST_PROMPT = 0.5
PRIOR_WEIGHT = 0.3
"""Of the distance between what the encoder says and the mel (Grad-TTS, 2105.06337): it begins near it."""


def built_in_speaker() -> Tensor:
    """The voice's x-vector (1, 192), made up."""
    width = dimensions.spec().s3gen.speaker_width
    return F.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(8)))


def flow(seed: int = 4) -> Flow:
    """A flow of the bundled model's size with fresh weights."""
    with torch.device("meta"):
        made = Flow(dimensions.spec().s3gen)
    fresh(made, seed)
    return made


def run(corpus: Corpus, folder: Path, steps: int = STEPS) -> None:
    """Train the flow; its state is `folder/flow.pt`."""
    model = flow()
    codes = np.concatenate(speech_tokenizer.tokens(corpus, folder)).astype(np.int64)
    speaker = built_in_speaker()

    def batch(generator: torch.Generator, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
        starts = torch.randint(lowest, highest, (BATCH,), generator=generator).tolist()
        tokens = torch.stack([torch.from_numpy(codes[start : start + WINDOW_TOKENS]) for start in starts])
        mel = torch.stack([torch.from_numpy(corpus.mel_at(2 * start, 2 * WINDOW_TOKENS)) for start in starts])
        return tokens, mel.transpose(1, 2).contiguous()

    def distances(tokens: Tensor, mel: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rows, _, frames = mel.shape
        mu = model.encoder_proj(model.encoder(model.input_embedding(tokens))).transpose(1, 2)
        prior = F.l1_loss(mu, mel)
        voice = model.spk_embed_affine_layer(speaker).expand(rows, -1)
        prompt = torch.rand(rows, generator=generator) * LONGEST_PROMPT * frames
        prompt = torch.where(torch.rand(rows, generator=generator) < PROMPTED, prompt, 0.0)
        cond = mel * (torch.arange(frames) < prompt[:, None])[:, None]
        free = (torch.rand(rows, generator=generator) < UNGUIDED)[:, None, None]
        mu, cond, voice = mu.masked_fill(free, 0.0), cond.masked_fill(free, 0.0), voice.masked_fill(free[:, 0], 0.0)
        time = 1 - torch.cos(torch.rand(rows, generator=generator) * (math.pi / 2))
        noise = torch.randn(mel.shape, generator=generator)
        at = time[:, None, None]
        made = model.decoder.estimator((1 - at) * noise + at * mel, None, mu, time, voice, cond)
        return {"velocity": F.mse_loss(made, mel - noise), "prior": PRIOR_WEIGHT * prior}

    first, last = corpus.start(corpus.held_out) // 2, len(codes) - WINDOW_TOKENS

    def losses(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return distances(*batch(generator, first, last), generator)

    def validate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        parts = distances(*batch(generator, 0, first - WINDOW_TOKENS), generator)
        return {name: float(value) for name, value in parts.items()}

    loop.train(
        "flow", model, losses, steps=steps, rate=RATE, folder=folder, log=dimensions.LOGS / "flow.jsonl",
        validate=validate,
    )  # fmt: skip
