"""Small models of every family, and checkpoints of them in the hub's layout."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from chatterbox_engine.checkpoint import (
    CONFIG_FILE,
    S3GEN_FILE,
    T3_FILE,
    VOICE_ENCODER_FILE,
    Checkpoint,
    _seeded,
    find,
)
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.spec import ModelSpec, SpeechTokenizerSpec
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.text import stand_in
from chatterbox_engine.voice_encoder import ReferenceEncoder, VoiceEncoder
from chatterbox_engine.weights import RandomWeights

CPU = torch.device("cpu")


def small(name: str) -> Checkpoint:
    """`dummy:NAME` with two layers of T3 and the tiny model's S3Gen, so that it speaks in a moment."""
    full, tiny = find(f"dummy:{name}", "cpu").spec, find("dummy:tiny", "cpu").spec
    t3 = {"layers": 2, "width": 128, "heads": 2, "head_width": 64, "mlp_width": 256, "aligned_heads": ((1, 0), (0, 1))}
    s3gen = {part: getattr(tiny.s3gen, part) for part in ("encoder", "estimator", "hift")}
    spec = full.model_copy(
        update={
            "name": f"small-{name}",
            "t3": full.t3.model_copy(update=t3),
            "s3gen": full.s3gen.model_copy(update=s3gen),
            "speech_tokenizer": tiny.speech_tokenizer,
            "random_weights": tiny.random_weights,
        }
    )
    return _seeded(spec.name, spec)


class Recorder(RandomWeights):
    """Random weights that remember what was taken: the tensors of a model under the reference's names."""

    def __init__(self) -> None:
        super().__init__(0)
        self.tensors: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.tensors[name] = super().take(name, shape)
        return self.tensors[name]


def save(checkpoint: Checkpoint, folder: Path) -> ModelSpec:
    """Write a model of random weights as a folder in the hub's layout; returns the spec that is in its config file."""
    spec = checkpoint.spec.model_copy(update={"random_weights": None})
    t3, s3gen, ve = Recorder(), Recorder(), Recorder()
    T3Model.from_weights(spec.t3, t3, 64, torch.float32, CPU)
    S3GenModel(spec.s3gen, s3gen, torch.float32, CPU)
    VoiceEncoder(spec, ve, s3gen)
    for part, recorder in ((T3_FILE, t3), (S3GEN_FILE, s3gen), (VOICE_ENCODER_FILE, ve)):
        path = folder / getattr(spec.files, part)
        (torch.save if path.suffix == ".pt" else save_file)(recorder.tensors, path)
    tokenizer = folder / spec.files.tokenizer
    if spec.tokenizer == "gpt2":
        stand_in.gpt2().save(str(tokenizer))
    elif len(spec.languages) > 1:
        stand_in.multilingual().save(str(tokenizer))
    else:
        shutil.copy(stand_in.ENGLISH, tokenizer)
    (folder / CONFIG_FILE).write_text(spec.model_dump_json())
    voice = checkpoint.voice()
    assert voice is not None
    t3_part = {
        "speaker_emb": voice.speaker,
        "cond_prompt_speech_tokens": voice.t3_prompt,
        "emotion_adv": torch.full((1, 1, 1), 0.5),
    }
    gen_part = {"prompt_token": voice.s3gen_prompt, "prompt_feat": voice.s3gen_feat, "embedding": voice.s3gen_speaker}
    torch.save({"t3": t3_part, "gen": gen_part}, folder / spec.files.voice)
    return spec


def shallow_s3gen(*, meanflow: bool) -> Any:
    """chatterbox-tts's S3Gen, its own class, at full width and small depth, with random weights."""
    from chatterbox.models.s3gen import S3Gen

    torch.manual_seed(2)
    s3gen = S3Gen(meanflow=meanflow)
    s3gen.tokenizer = ReferenceEncoder(SpeechTokenizerSpec(width=128, heads=2, layers=2)).tokenizer
    encoder, estimator = s3gen.flow.encoder, s3gen.flow.decoder.estimator
    encoder.encoders, encoder.up_encoders = encoder.encoders[:2], encoder.up_encoders[:1]
    estimator.mid_blocks = estimator.mid_blocks[:3]
    for stage in (*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks):
        stage[1] = stage[1][:1]
    return s3gen.eval()
