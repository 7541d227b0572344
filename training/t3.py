"""T3: phonemes -> speech tokens, by next-token prediction with three heads led along the teacher's alignment."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.layers import LlamaLayer
from chatterbox_engine.t3.model import T3Model, reference_names
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights
from training import dimensions, loop, speech_tokenizer, symbols
from training.corpus import Corpus
from training.modules import CodeTable
from training.speech_tokenizer import PITCHES
from training.voice import BuiltInVoice, built_in

STEPS = 6000
RATE = 1.5e-3
NEXT_RATE = 8e-4
"""The highest of a run that begins from a checkpoint."""
BATCH_POSITIONS = 2500
TEXT_DROPOUT = 0.12
"""Share of utterances whose words are hidden, for classifier-free guidance (2207.12598)."""
RAISED, REPLACED = 0.1, 0.03
"""Shares of the tokens heard that are up to two levels higher or lower, or others: what sampling does to T3's past."""
LEAD_WEIGHT = 1.0
"""Of the guided attention (1710.08969)."""
NORM_WEIGHT = 1e-2
"""Of the squared log-sum of the logits: they become log-probabilities, which a repetition penalty hardly touches."""
LAST_PAUSE = 6
"""Tokens of silence at an utterance's end that are kept, a quarter of a second."""
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


def examples(
    corpus: Corpus, codes: Sequence[NDArray[np.int16]], places_of: Sequence[NDArray[np.int16]]
) -> list[Example]:
    """The corpus with its tokens and their places, by utterance."""
    made = []
    for index, (tokens, places) in enumerate(zip(codes, places_of, strict=True)):
        utterance = corpus[index]
        text = [symbols.START, *symbols.encode(utterance.phonemes), symbols.STOP]
        kept = int(np.flatnonzero(~speech_tokenizer.paused(tokens))[-1]) + 1 + LAST_PAUSE
        places = np.append(places[:kept], len(text) - 1).astype(np.int16)
        made.append(Example(text, tokens[:kept], places, utterance.exaggeration))
    return made


class _SpeechTable(CodeTable):
    """T3's embedding of speech tokens, where the codes' rows are sums."""

    def __init__(self, spec: T3Spec, seed: int) -> None:
        super().__init__(spec.width, seed)
        self.weight = nn.Parameter(torch.randn(2, spec.width, generator=torch.Generator().manual_seed(seed + 1)) * 0.06)
        """Of the start and of the stop token."""
        self._codes, self._tokens = spec.start_speech, spec.speech_vocab

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        super().begin(rows)
        self.weight.copy_(rows[self._codes : self._codes + 2])

    def forward(self, tokens: Tensor) -> Tensor:
        code = tokens < self._codes
        marks = self.weight[(tokens - self._codes).clamp(min=0)]
        return torch.where(code[..., None], super().forward(torch.where(code, tokens, 0)), marks)

    def rows(self) -> Tensor:
        """(V, W); those of tokens without a meaning are 0."""
        known = torch.cat((super().rows(), self.weight))
        return F.pad(known, (0, 0, 0, self._tokens - len(known)))


class _SpeechHead(CodeTable):
    """T3's head, where the codes' rows are sums: a code's probability is its sound's times its pitch's."""

    def __init__(self, spec: T3Spec, seed: int) -> None:
        super().__init__(spec.width, seed)
        self.stop = nn.Parameter(torch.zeros(spec.width))
        self.other = nn.Parameter(torch.zeros(spec.width))
        """Of each token without a meaning, the start token included."""
        self._others = spec.speech_vocab - spec.stop_speech
        self._stop = spec.stop_speech

    @torch.no_grad()
    def begin(self, rows: Tensor) -> None:
        super().begin(rows)
        self.other.copy_(rows[self._stop - 1])
        self.stop.copy_(rows[self._stop])

    def distances(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of hidden states (N, W): the cross entropy (N,) of tokens (N,), and the squared log-sum of the logits."""
        sound, pitch = (F.linear(hidden, table) for table in (self.sound, self.pitch))
        sums = sound.logsumexp(-1), pitch.logsumexp(-1)
        stop, other = hidden @ self.stop, hidden @ self.other + math.log(self._others)
        total = torch.stack((sums[0] + sums[1], stop, other)).logsumexp(0)
        ends = tokens == self._stop
        code = torch.where(ends, 0, tokens)[:, None]
        said = (sound.gather(1, code // PITCHES) + pitch.gather(1, code % PITCHES))[:, 0]
        return total - torch.where(ends, stop, said), sums[0].square() + sums[1].square() + total.square()

    def rows(self) -> Tensor:
        """(V, W)"""
        return torch.cat((super().rows(), self.other[None], self.stop[None], self.other.expand(self._others - 1, -1)))


class Trainee:
    """T3 under training, with the voice that it always hears; `start` is a checkpoint's folder to begin from."""

    def __init__(self, voice: BuiltInVoice, seed: int = 5, start: Path | None = None) -> None:
        self.spec: T3Spec = dimensions.spec().t3
        positions = self.spec.positions
        weights = RandomWeights(seed) if start is None else SafetensorsWeights(start / dimensions.spec().files.t3)
        self.model = T3Model.from_weights(
            self.spec, weights, positions, torch.float32, torch.device("cpu"), cpu_kernels="plain"
        )
        table, self._head = _SpeechTable(self.spec, seed), _SpeechHead(self.spec, seed + 2)
        if start is not None:
            table.begin(self.model.speech_emb.weight)
            self._head.begin(self.model.speech_head.weight)
        self.model.speech_emb, self.model.speech_head = table, self._head  # type: ignore[assignment]
        self.model.requires_grad_(True)
        self._voice = voice

    def reference_state(self) -> dict[str, Tensor]:
        """The tensors under the reference's names, the rows of all speech tokens written out."""
        tables = {name: getattr(self.model, name) for name in ("speech_emb", "speech_head")}
        state = {name: part for name, part in self.model.state_dict().items() if name.split(".")[0] not in tables}
        rows = {f"{name}.weight": table.rows().detach() for name, table in tables.items()}
        return reference_names({**state, **rows})

    def rows(self, batch: Sequence[Example], generator: torch.Generator, *, clean: bool = False) -> Rows:
        """Put utterances together as a request's prompt and its tokens are; `clean` without dropout and noise."""
        model = self.model
        voice = model.voice_prefix(self._voice.t3_speaker, self._voice.prompt)
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
        with loop.reduced():
            hidden, led = self._run(rows.x, rows.places)
        said = rows.targets >= 0
        entropy, norm = self._head.distances(hidden[said].float(), rows.targets[said])
        return {"tokens": entropy.mean(), "norm": NORM_WEIGHT * norm.mean(), "lead": LEAD_WEIGHT * led}

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
                    scores = torch.matmul(q[:, head], k[:, head].transpose(1, 2)).float() / q.shape[-1] ** 0.5
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
    """The tokens, some of them higher or lower, and some others of the same utterance."""
    draw = torch.rand(len(tokens), generator=generator)
    by = torch.randint(-2, 3, (len(tokens),), generator=generator)
    pitch = tokens % PITCHES
    raised = tokens - pitch + (pitch + by).clamp(0, PITCHES - 1)
    other = tokens[torch.randint(len(tokens), (len(tokens),), generator=generator)]
    return torch.where(draw < REPLACED, other, torch.where(draw < REPLACED + RAISED, raised, tokens))


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


def run(corpus: Corpus, folder: Path, steps: int = STEPS, start: Path | None = None) -> None:
    """Train T3, afresh or from a checkpoint on; its state is `folder/t3.pt`."""
    codes, places = speech_tokenizer.tokens(corpus, folder)
    data = examples(corpus, codes, places)
    trainee = Trainee(built_in(corpus, codes), start=start)
    if steps >= loop.WORTH_COMPILING:
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
        "t3", trainee.model, losses, steps=steps, rate=RATE if start is None else NEXT_RATE, folder=folder,
        log=dimensions.LOGS / "t3.jsonl", validate=validate, continued=start is not None,
    )  # fmt: skip
