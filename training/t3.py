"""T3: phonemes -> speech tokens, by next-token prediction with three heads led along the teacher's alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.layers import LlamaLayer
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.weights import RandomWeights
from training import dimensions, loop, speech_tokenizer, symbols
from training.corpus import Corpus

STEPS = 1600
RATE = 2e-3
BATCH_POSITIONS = 5000
TEXT_DROPOUT = 0.12
"""Share of utterances whose words are hidden, for classifier-free guidance (2207.12598)."""
FLIPPED, REPLACED = 0.08, 0.02
"""Shares of the tokens heard of which one digit is another, or all: what sampling does to T3's own past."""
LEAD_WEIGHT = 1.0
"""Of the guided attention (1710.08969)."""
NORM_WEIGHT = 1e-3
"""Of the squared log-sum of the logits: they become log-probabilities, which a repetition penalty hardly touches."""
_WORTH_COMPILING = 200
"""Steps from which on half a minute of compiling pays: a step takes four fifths of the time."""
_NEAR = 1
"""Places beside the phoneme spoken that the led heads may look at too."""


@dataclass(frozen=True)
class Example:
    """An utterance as T3 sees it."""

    text: list[int]
    """Ids with the marks around them, N."""
    tokens: NDArray[np.int16]
    """(K,)"""
    places: NDArray[np.int16]
    """(K + 1,) place in `text` of what each token, and the stop after them, speaks."""
    exaggeration: float


@dataclass(frozen=True)
class Rows:
    """A batch of padded sequences: B rows, L positions."""

    x: Tensor
    """(B, L, W)"""
    targets: Tensor
    """(B, L) int64, the token after each position; -100 where none is learned."""
    places: Tensor
    """(B, L) int64, position of the text token that the led heads should look at; -1 nowhere."""


def built_in_voice(corpus: Corpus, folder: Path) -> tuple[Tensor, Tensor, int]:
    """The voice's speaker vector (1, 256), made up; its prompt's tokens (1, P), those of the first utterance
    that suits, and which one that is."""
    spec = dimensions.spec().t3
    speaker = torch.randn(1, spec.speaker_width, generator=torch.Generator().manual_seed(7))
    spoken = speech_tokenizer.tokens(corpus, folder)
    most = spec.prompt_tokens
    index = next(i for i, own in enumerate(spoken) if 0.8 * most <= len(own) <= most and corpus[i].exaggeration == 0.5)
    return F.normalize(speaker), torch.from_numpy(spoken[index].astype(np.int64))[None], index


def examples(corpus: Corpus, folder: Path) -> list[Example]:
    """The corpus with its tokens."""
    made = []
    for index, tokens in enumerate(speech_tokenizer.tokens(corpus, folder)):
        utterance = corpus[index]
        text = [symbols.START, *symbols.encode(utterance.phonemes), symbols.STOP]
        places = np.append(utterance.symbols[::2], len(text) - 1).astype(np.int16)
        made.append(Example(text, tokens, places, utterance.exaggeration))
    return made


class Trainee:
    """T3 under training, with the voice that it always hears."""

    def __init__(self, speaker: Tensor, prompt: Tensor, seed: int = 5) -> None:
        self.spec: T3Spec = dimensions.spec().t3
        positions = self.spec.positions
        self.model = T3Model.from_weights(
            self.spec, RandomWeights(seed), positions, torch.float32, torch.device("cpu"), cpu_kernels="plain"
        )
        self.model.requires_grad_(True)
        self._speaker, self._prompt = speaker, prompt

    def rows(self, batch: Sequence[Example], generator: torch.Generator, *, clean: bool = False) -> Rows:
        """Put utterances together as a request's prompt and its tokens are; `clean` without dropout and noise."""
        model = self.model
        voice = model.voice_prefix(self._speaker, self._prompt)
        sequences, targets, places = [], [], []
        for example in batch:
            tokens = torch.from_numpy(example.tokens.astype(np.int64))
            heard = tokens if clean else _noisy(tokens, generator)
            worded = clean or torch.rand((), generator=generator).item() >= TEXT_DROPOUT
            prompt = model.prompt(voice, example.exaggeration, example.text, worded)
            past = model.embed_speech(heard, torch.arange(1, len(heard) + 1))
            sequences.append(torch.cat((prompt, past)))
            unsaid = torch.full((len(prompt) - 1,), -100)
            targets.append(torch.cat((unsaid, tokens, torch.tensor([self.spec.stop_speech]))))
            begin = model.text_place(len(voice))
            led = torch.from_numpy(example.places.astype(np.int64)) + begin if worded else tokens.new_full((), -1)
            places.append(torch.cat((unsaid.clamp(min=-1, max=-1), led.expand(len(tokens) + 1))))
        x = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        return Rows(x, _padded(targets, -100), _padded(places, -1))

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Cross entropy, the norm of the logits, and how much of the led heads' attention goes astray."""
        hidden, led = self._run(rows.x, rows.places)
        said = rows.targets >= 0
        logits = self.model.speech_head(hidden[said])
        norm = logits.logsumexp(-1)
        return {
            "tokens": F.cross_entropy(logits, rows.targets[said]),
            "norm": NORM_WEIGHT * norm.square().mean(),
            "lead": LEAD_WEIGHT * led,
        }

    def _run(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Normed hidden states (B, L, W), and -log of the share of the led heads' attention that is at its place."""
        model = self.model
        length = x.shape[1]
        place = model.cos[None, :length, None], model.sin[None, :length, None]
        row, at = (places >= 0).nonzero(as_tuple=True)
        wanted = places[row, at]
        near = torch.arange(-_NEAR, _NEAR + 1) + wanted[:, None]
        astray = x.new_zeros(())
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, LlamaLayer)
            q, k, v = layer.queries_keys_values(x, place).unbind(2)
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            x = layer.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            for own, head in self.spec.aligned_heads:
                if own == index:
                    scores = torch.matmul(q[:, head], k[:, head].transpose(1, 2)) / q.shape[-1] ** 0.5
                    scores = scores.masked_fill(_above(length), -torch.inf)[row, at]
                    share = scores.gather(1, near).logsumexp(-1) - scores.logsumexp(-1)
                    astray = astray - share.mean() / len(self.spec.aligned_heads)
        return model.norm(x), astray


@cache
def _above(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _noisy(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """The tokens with some digits, and some of them whole, drawn anew."""
    draw = torch.rand(len(tokens), generator=generator)
    scale = speech_tokenizer.LEVELS ** torch.randint(speech_tokenizer.DIGITS, (len(tokens),), generator=generator)
    level = torch.randint(speech_tokenizer.LEVELS, (len(tokens),), generator=generator)
    flipped = tokens + (level - tokens // scale % speech_tokenizer.LEVELS) * scale
    other = tokens[torch.randint(len(tokens), (len(tokens),), generator=generator)]
    return torch.where(draw < REPLACED, other, torch.where(draw < REPLACED + FLIPPED, flipped, tokens))


class _Batches:
    """Batches of about BATCH_POSITIONS positions and of like length, in an order of its own each time through."""

    def __init__(self, lengths: list[int], first: int) -> None:
        self._lengths = lengths
        self._first = first
        self._passes: list[list[list[int]]] = []

    def __getitem__(self, step: int) -> list[int]:
        passed = 0
        while True:
            if passed == len(self._passes):
                self._passes.append(self._shuffled(passed))
            batches = self._passes[passed]
            if step < len(batches):
                return batches[step]
            step -= len(batches)
            passed += 1

    def _shuffled(self, seed: int) -> list[list[int]]:
        draw = np.random.default_rng(seed)
        jitter = draw.uniform(0.9, 1.1, len(self._lengths))
        order = sorted(range(self._first, len(self._lengths)), key=lambda i: self._lengths[i] * jitter[i])
        batches: list[list[int]] = [[]]
        for index in order:
            longest = max(self._lengths[i] for i in (*batches[-1], index))
            if longest * (len(batches[-1]) + 1) > BATCH_POSITIONS:
                batches.append([])
            batches[-1].append(index)
        draw.shuffle(batches)
        return batches


def run(corpus: Corpus, folder: Path, steps: int = STEPS) -> None:
    """Train T3; its state is `folder/t3.pt`."""
    data = examples(corpus, folder)
    speaker, prompt, _ = built_in_voice(corpus, folder)
    trainee = Trainee(speaker, prompt)
    if steps >= _WORTH_COMPILING:
        for layer in trainee.model.layers:
            assert isinstance(layer, LlamaLayer)
            for part in ("queries_keys_values", "finish"):
                setattr(layer, part, torch.compile(getattr(layer, part), dynamic=True))
    lengths = [len(example.text) + len(example.tokens) + 40 for example in data]
    batches = _Batches(lengths, corpus.held_out)

    def losses(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return trainee.losses(trainee.rows([data[index] for index in batches[step]], generator))

    def validate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        rows = trainee.rows(data[: max(1, corpus.held_out // 4)], generator, clean=True)
        return {name: float(value) for name, value in trainee.losses(rows).items()}

    loop.train(
        "t3", trainee.model, losses, steps=steps, rate=RATE, folder=folder, log=dimensions.LOGS / "t3.jsonl",
        validate=validate,
    )  # fmt: skip
