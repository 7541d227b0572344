"""The flow: speech tokens -> mel, by conditional flow matching (2210.02747) with optimal-transport paths."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from chatterbox_engine.s3gen.encoder import chunk_mask
from chatterbox_engine.s3gen.flow import Flow, flow_noise
from chatterbox_engine.types import FRAMES_PER_TOKEN
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights
from training import dimensions, loop, speech_tokenizer
from training.corpus import MEL_BINS, MEL_SPREAD, Corpus
from training.modules import CodeTable, begin
from training.voice import built_in, s3gen_speaker

STEPS = 4000
RATE = 1.2e-3
WINDOWS = ((16, 64), (16, 64), (8, 128), (8, 128), (4, 256))
"""Rows and tokens of the batches, in turn: what is spoken at once is a sentence or two after its prompt."""
NARROW, WIDE = 1000, 1600
"""Steps until which the mels' spread is 1, and from which on it is their own, 2.9, growing evenly between them: beside
a spread of 2.9 the noise, whose spread is 1, is hardly learned afresh, and once learned it is not lost."""
CHUNKS = (None, 10, None, 25, None, 50)
"""Tokens beyond which nothing attends, by step: a chunk at a time is spoken as well as all of them at once."""
SPOKEN = 1000
"""Utterances that the trained flow speaks for the vocoder to hear."""
UNGUIDED = 0.15
"""Share of windows whose conditions are hidden from the estimator."""
PROMPTED = 0.8
"""Share of windows whose beginning is given as a prompt."""
LONGEST_PROMPT = 0.5
PRIOR_WEIGHT = 0.5
"""Of the distance between what the encoder says and the mel (Grad-TTS, 2105.06337): it begins near it."""


class Trainee(Flow):
    """A flow of the bundled model's size with fresh weights, whose embedding of codes is a sum."""

    def __init__(self, seed: int = 4, start: Path | None = None) -> None:
        """`start` is a checkpoint's folder to begin from."""
        spec = dimensions.spec()
        with torch.device("meta"):
            super().__init__(spec.s3gen)
        table = CodeTable(self.spec.encoder.width, seed)
        if start is None:
            begin(self, RandomWeights(seed))
        else:
            begin(self, SafetensorsWeights(start / spec.files.s3gen), "flow.")
            table.begin(self.input_embedding.weight)
        self.input_embedding = table  # type: ignore[assignment]

    def reference_state(self) -> dict[str, Tensor]:
        """The tensors of `flow.*`, the embedding of all codes written out."""
        state = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("input_embedding")}
        return {**state, "input_embedding.weight": self.input_embedding.rows().detach()}  # type: ignore[operator]

    def distances(
        self, tokens: Tensor, mel: Tensor, chunk: int | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Of tokens (B, T) and their mel (B, 80, 2T) without its mean: the velocity's error and the encoder's own."""
        rows, _, frames = mel.shape
        mask = None if chunk is None else chunk_mask(frames, FRAMES_PER_TOKEN * chunk)[0]
        mu = self.encoder_proj(self.encoder(self.input_embedding(tokens), None, chunk)).transpose(1, 2)
        prior = F.l1_loss(mu, mel)
        voice = self.spk_embed_affine_layer(s3gen_speaker()).expand(rows, -1)
        prompt = torch.rand(rows, generator=generator) * LONGEST_PROMPT * frames
        prompt = torch.where(torch.rand(rows, generator=generator) < PROMPTED, prompt, 0.0)
        cond = mel * (torch.arange(frames) < prompt[:, None])[:, None]
        free = (torch.rand(rows, generator=generator) < UNGUIDED)[:, None, None]
        mu, cond, voice = mu.masked_fill(free, 0.0), cond.masked_fill(free, 0.0), voice.masked_fill(free[:, 0], 0.0)
        time = 1 - torch.cos(torch.rand(rows, generator=generator) * (math.pi / 2))
        noise = torch.randn(mel.shape, generator=generator)
        at = time[:, None, None]
        made = self.decoder.estimator((1 - at) * noise + at * mel, mask, mu, time, voice, cond)
        return {"velocity": F.mse_loss(made, mel - noise), "prior": PRIOR_WEIGHT * prior}


def run(corpus: Corpus, folder: Path, steps: int = STEPS, start: Path | None = None) -> None:
    """Train the flow (`folder/flow.pt`), and let it speak for the vocoder (`folder/mels.npy`)."""
    model = Trainee(start=start)
    by_utterance, _ = speech_tokenizer.tokens(corpus, folder)
    codes = np.concatenate(by_utterance).astype(np.int64)
    held_out = corpus.start(corpus.held_out) // FRAMES_PER_TOKEN

    def distances(seed: int, lowest: int, highest: int, spread: float = MEL_SPREAD) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows, window = WINDOWS[seed % len(WINDOWS)]
        starts = torch.randint(lowest, highest - window, (rows,), generator=generator).tolist()
        tokens = torch.stack([torch.from_numpy(codes[start : start + window]) for start in starts])
        mel = [torch.from_numpy(corpus.mel_at(FRAMES_PER_TOKEN * at, FRAMES_PER_TOKEN * window)) for at in starts]
        # With their own spread beside the noise's of 1, as the real model's: what noise is left is then small.
        target = spread * torch.stack(mel).transpose(1, 2).contiguous()
        with loop.reduced():
            return model.distances(tokens, target, CHUNKS[seed % len(CHUNKS)], generator)

    def spread(step: int) -> float:
        wide = 1.0 if start is not None else min(1.0, max(0.0, (step - NARROW) / (WIDE - NARROW)))
        return 1.0 + wide * (MEL_SPREAD - 1.0)

    def validate() -> dict[str, float]:
        parts = [distances(seed, 0, held_out) for seed in range(len(WINDOWS) * len(CHUNKS))]
        return {name: statistics.fmean(float(part[name]) for part in parts) for name in parts[0]}

    loop.train(
        "flow", model, lambda step: distances(step, held_out, len(codes), spread(step)), steps=steps, rate=RATE,
        folder=folder, log=dimensions.LOGS / "flow.jsonl", validate=validate, continued=start is not None,
    )  # fmt: skip
    np.save(folder / "mels.npy", _spoken(model, corpus, by_utterance))


def _spoken(model: Trainee, corpus: Corpus, codes: Sequence[NDArray[np.int16]]) -> NDArray[np.float16]:
    """What the flow makes of the true tokens of SPOKEN utterances, (frames, 80) standardised."""
    voice = built_in(corpus, codes)
    model.eval()
    made = []
    for spoken in tqdm(range(corpus.held_out, min(corpus.held_out + SPOKEN, corpus.with_audio)), "Mels", disable=None):
        tokens = torch.cat((voice.prompt, torch.from_numpy(codes[spoken].astype(np.int64))[None]), dim=1)
        noise = flow_noise(torch.tensor([spoken]), voice.mel.shape[1], 0, corpus.frames(spoken), MEL_BINS)
        with torch.inference_mode():
            made.append(model(tokens, voice.mel, voice.s3gen_speaker, noise, final=True)[0].T / MEL_SPREAD)
    return torch.cat(made).half().numpy()
