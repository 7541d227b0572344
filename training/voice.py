"""The bundled model's one voice: made-up speaker vectors, and a held-out utterance of the teacher's as the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import dimensions
from training.corpus import MEL_SPREAD, NEUTRAL, Corpus, standardised

_SHORTEST = 0.8
"""Of T3's longest prompt."""


@dataclass(frozen=True)
class BuiltInVoice:
    """What conditions both stages; P tokens of prompt."""

    t3_speaker: Tensor
    """(1, 256)"""
    s3gen_speaker: Tensor
    """(1, 192)"""
    prompt: Tensor
    """(1, P) int64"""
    mel: Tensor
    """(1, 2P, 80), as the flow makes mels."""


def s3gen_speaker() -> Tensor:
    """(1, 192), the x-vector's place."""
    return _unit(dimensions.spec().s3gen.speaker_width, 8)


def built_in(corpus: Corpus, tokens: Sequence[NDArray[np.int16]]) -> BuiltInVoice:
    """The voice with the prompt of the first utterance that suits; `tokens` are the corpus's, by utterance."""
    spec = dimensions.spec().t3
    index = next(
        index
        for index, own in enumerate(tokens)
        if _SHORTEST * spec.prompt_tokens <= len(own) <= spec.prompt_tokens and corpus[index].exaggeration == NEUTRAL
    )
    return BuiltInVoice(
        _unit(spec.speaker_width, 7),
        s3gen_speaker(),
        torch.from_numpy(tokens[index].astype(np.int64))[None],
        MEL_SPREAD * torch.from_numpy(standardised(corpus[index].mel))[None],
    )


def _unit(width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(seed)))
