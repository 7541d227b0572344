"""The stages' results as a checkpoint in the hub's layout, under the reference's names."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from chatterbox_engine.checkpoint import CONFIG_FILE
from chatterbox_engine.t3.model import reference_names
from chatterbox_engine.weights import SCALE
from training import dimensions, flow, symbols, t3
from training.corpus import Corpus

_SMALL = 4096
"""Numbers of a tensor below which 8 bits save nothing."""


def write(corpus: Corpus, folder: Path, to: Path) -> None:
    """Put the bundled model's files into `to`: matrices in 8 bits with a scale a row, the rest in 16."""
    spec = dimensions.spec()
    to.mkdir(parents=True, exist_ok=True)
    shutil.copy(dimensions.CONFIG, to / CONFIG_FILE)
    save_file(_stored(reference_names(_state(folder, "t3"))), to / spec.files.t3)
    parts = {"flow.": _state(folder, "flow"), "mel2wav.": _state(folder, "vocoder")}
    s3gen = {prefix + name: tensor for prefix, state in parts.items() for name, tensor in state.items()}
    save_file(_stored(s3gen), to / spec.files.s3gen)
    tokenizer = Tokenizer(models.BPE(symbols.vocabulary(), [], unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[STOP]", "[UNK]", "[SPACE]", "[START]"])
    tokenizer.save(str(to / spec.files.tokenizer))
    torch.save(_voice(corpus, folder), to / spec.files.voice)


def _state(folder: Path, stage: str) -> dict[str, Tensor]:
    return torch.load(folder / f"{stage}.pt", weights_only=True)["model"]


def _stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    stored = {}
    for name, tensor in state.items():
        if tensor.dim() < 2 or tensor.numel() < _SMALL:
            stored[name] = tensor.half()
            continue
        scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-8) / 127
        scale = scale.view(-1, *(1,) * (tensor.dim() - 1))
        stored[name] = (tensor / scale).round().to(torch.int8)
        stored[name + SCALE] = scale
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def _voice(corpus: Corpus, folder: Path) -> dict[str, dict[str, Tensor]]:
    """`conds.pt`: the one voice, a held-out utterance of the teacher's as prompt of both stages."""
    speaker, prompt, index = t3.built_in_voice(corpus, folder)
    mel = torch.from_numpy(corpus[index].mel.astype(np.float32))[None]
    return {
        "t3": {
            "speaker_emb": speaker,
            "cond_prompt_speech_tokens": prompt,
            "emotion_adv": torch.full((1, 1, 1), 0.5),
        },
        "gen": {"prompt_token": prompt, "prompt_feat": mel, "embedding": flow.built_in_speaker()},
    }
