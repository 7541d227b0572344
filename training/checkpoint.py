"""The stages' results as a checkpoint in the hub's layout, under the reference's names."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from chatterbox_engine.checkpoint import CONFIG_FILE
from chatterbox_engine.weights import SCALE
from training import dimensions, flow, speech_tokenizer, symbols, t3, vocoder
from training.corpus import MEL_SPREAD, NEUTRAL, Corpus
from training.voice import built_in

_SMALL = 4096
"""Numbers of a tensor below which 8 bits save nothing."""


def write(corpus: Corpus, folder: Path, to: Path) -> None:
    """Put the bundled model's files into `to`: matrices in 8 bits with a scale a row, the rest in 16."""
    spec = dimensions.spec()
    to.mkdir(parents=True, exist_ok=True)
    (to / CONFIG_FILE).write_bytes(dimensions.CONFIG.read_bytes())
    voice = built_in(corpus, speech_tokenizer.tokens(corpus, folder)[0])
    talker, teller = t3.Trainee(voice), flow.Trainee()
    talker.model.load_state_dict(_state(folder, "t3"))
    teller.load_state_dict(_state(folder, "flow"))
    save_file(stored(talker.reference_state()), to / spec.files.t3)
    hift = _state(folder, "vocoder")
    for name in vocoder.READ_MELS:
        hift[name] = hift[name] / MEL_SPREAD
    parts = {"flow.": teller.reference_state(), "mel2wav.": hift}
    s3gen = {prefix + name: tensor for prefix, state in parts.items() for name, tensor in state.items()}
    save_file(stored(s3gen), to / spec.files.s3gen)
    tokenizer = Tokenizer(models.BPE(symbols.vocabulary(), [], unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[STOP]", "[UNK]", "[SPACE]", "[START]"])
    tokenizer.save(str(to / spec.files.tokenizer))
    neutral = torch.full((1, 1, 1), NEUTRAL)
    conditions = {
        "t3": {"speaker_emb": voice.t3_speaker, "cond_prompt_speech_tokens": voice.prompt, "emotion_adv": neutral},
        "gen": {"prompt_token": voice.prompt, "prompt_feat": voice.mel, "embedding": voice.s3gen_speaker},
    }
    torch.save(conditions, to / spec.files.voice)


def _state(folder: Path, stage: str) -> dict[str, Tensor]:
    return torch.load(folder / f"{stage}.pt", weights_only=True)["model"]


def stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in 8 bits with a scale a row (`weights.SCALE`), the rest in 16."""
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
