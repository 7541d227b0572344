"""Where a model comes from: hub id, folder, the bundled demo, or dummy weights -> spec, tensors, tokenizer, voice."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from chatterbox_engine.errors import ModelUnavailable
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.text import TextTokenizer
from chatterbox_engine.types import FRAMES_PER_TOKEN
from chatterbox_engine.voice import DEFAULT_VOICE, Voice
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights, StateDictWeights, Weights

if TYPE_CHECKING:
    from chatterbox.tts import ChatterboxTTS

logger = logging.getLogger(__name__)

HUB_MODEL = "ResembleAI/chatterbox"
_HUB_ANSWER_S = 10.0
"""Seconds without an answer after which the hub counts as out of reach."""
DEMO = Path(__file__).parent / "demo"
T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE = "t3_cfg.safetensors", "s3gen.safetensors", "ve.safetensors"
TOKENIZER_FILE, VOICE_FILE, CONFIG_FILE = "tokenizer.json", "conds.pt", "config.json"
_OTHER_FAMILIES = {
    "t3_turbo_v1.safetensors": "Chatterbox Turbo",
    "t3_nano_v1.safetensors": "Chatterbox Nano",
    "t3_mtl23ls_v2.safetensors": "Chatterbox Multilingual",
}
WAYS_OUT = (
    "Ways out: `demo` (bundled, no download), `dummy:chatterbox` (full size, random weights), "
    f"`{HUB_MODEL}` (needs the network once), or a folder with {T3_FILE}, {S3GEN_FILE}, {VOICE_ENCODER_FILE} "
    f"and {TOKENIZER_FILE}."
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found; its tensors are read when a module asks for them."""

    model: str
    """What the caller asked for, with `auto` resolved."""
    spec: ModelSpec
    weights: Callable[[str], Weights]
    """The tensors of T3_FILE, S3GEN_FILE or VOICE_ENCODER_FILE. Raises ModelUnavailable."""
    tokenizer: Callable[[], TextTokenizer]
    """Raises ModelUnavailable."""
    voice: Callable[[], Voice | None]
    """The built-in voice, or None where the checkpoint has none. Raises ModelUnavailable."""

    def voice_encoder(self) -> VoiceEncoder:
        """What makes voices from clips; takes seconds to load, and only those who upload need it."""
        return VoiceEncoder(self.spec, self.weights(VOICE_ENCODER_FILE), self.weights(S3GEN_FILE))

    def tokens_wanted(self, text: str) -> int | None:
        """Valid speech tokens after which to stop, for weights that never sample the stop token; else None."""
        random = self.spec.random_weights
        return None if random is None else max(5, round(len(text) * random.tokens_per_character))


def find(model: str, device: str) -> Checkpoint:
    """Resolve `auto`, `demo`, `dummy:NAME`, a folder, or a hub id (which downloads on first use).

    Raises ModelUnavailable naming what is missing, where it was looked for, and the ways out.
    """
    if model == "auto":
        model = HUB_MODEL if device.startswith("cuda") else "demo"
    if model == "demo":
        return _seeded(model, _read_spec(DEMO / CONFIG_FILE))
    if model.startswith("dummy:"):
        return _dummy(model)
    folder = Path(os.path.expanduser(model))
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise ModelUnavailable(f"There is no folder {model} and no model of that name. {WAYS_OUT}")
        folder = _download(model)
    return _open(model, folder)


def from_reference(model: "ChatterboxTTS") -> Checkpoint:
    """A ChatterboxTTS in memory; its tensors are shared where they can be, and it is left as it is.

    Its depths are read off its modules. Raises ModelUnavailable for another family's model.
    """
    if model.t3.is_gpt or model.t3.hp.is_multilingual:
        raise ModelUnavailable(f"{type(model).__name__} is not served yet: from_reference takes a ChatterboxTTS.")
    spec = _depths_of(model, _read_spec(SPECS / "chatterbox.json"))
    modules = {T3_FILE: model.t3, S3GEN_FILE: model.s3gen, VOICE_ENCODER_FILE: model.ve}
    return Checkpoint(
        "ChatterboxTTS in memory",
        spec,
        weights=lambda file: StateDictWeights(modules[file].state_dict(), f"the ChatterboxTTS's {file}"),
        tokenizer=lambda: TextTokenizer(model.tokenizer.tokenizer, spec.t3, "the ChatterboxTTS's tokenizer"),
        voice=lambda: Voice.from_conditionals(model.conds, "conds", spec.name) if model.conds is not None else None,
    )


def _depths_of(model: "ChatterboxTTS", spec: ModelSpec) -> ModelSpec:
    """The spec with the numbers of layers, blocks and stages that the model has."""
    encoder, estimator = model.s3gen.flow.encoder, model.s3gen.flow.decoder.estimator
    tokenizer = model.s3gen.tokenizer.config
    own = {
        "t3": {"layers": len(model.t3.tfmr.layers)},
        "s3gen": {
            "encoder": {"blocks": len(encoder.encoders), "up_blocks": len(encoder.up_encoders)},
            "estimator": {"mid_stages": len(estimator.mid_blocks), "stage_blocks": len(estimator.down_blocks[0][1])},
        },
        "speech_tokenizer": {
            "width": tokenizer.n_audio_state,
            "heads": tokenizer.n_audio_head,
            "layers": tokenizer.n_audio_layer,
        },
    }
    return ModelSpec.model_validate({**spec.model_dump(exclude_unset=True), **own})


def _seeded(model: str, spec: ModelSpec) -> Checkpoint:
    """A model whose weights are drawn from a seed, with the bundled tokenizer."""
    assert spec.random_weights is not None
    seed = spec.random_weights.seed
    return Checkpoint(
        model,
        spec,
        weights=lambda file: RandomWeights(seed),
        tokenizer=lambda: TextTokenizer.from_file(DEMO / TOKENIZER_FILE, spec.t3),
        voice=lambda: _random_voice(spec),
    )


def _dummy(model: str) -> Checkpoint:
    name = model.removeprefix("dummy:")
    names = sorted(path.stem for path in SPECS.glob("*.json"))
    if name not in names:
        raise ModelUnavailable(f"There is no {model}. There are: {', '.join('dummy:' + n for n in names)}.")
    spec = _read_spec(SPECS / f"{name}.json")
    note = "The full architecture with random weights, for load and speed tests: it makes noise, not speech."
    random = {"random_weights": {}, "name": model, "note": note}
    return _seeded(model, ModelSpec.model_validate({**spec.model_dump(), **random}))


def _open(model: str, folder: Path) -> Checkpoint:
    for file, family in _OTHER_FAMILIES.items():
        if (folder / file).is_file() and not (folder / T3_FILE).is_file():
            raise ModelUnavailable(f"{folder} holds {family}, which this version does not serve yet. {WAYS_OUT}")
    for file in (T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE, TOKENIZER_FILE):
        if not (folder / file).is_file():
            raise ModelUnavailable(f"{folder} has no {file}. {WAYS_OUT}")
    spec = _folder_spec(folder / CONFIG_FILE)
    voice = folder / VOICE_FILE
    return Checkpoint(
        model,
        spec,
        weights=lambda file: SafetensorsWeights(folder / file),
        tokenizer=lambda: TextTokenizer.from_file(folder / TOKENIZER_FILE, spec.t3),
        voice=lambda: Voice.from_conditionals_file(voice, model=spec.name) if voice.is_file() else None,
    )


def _download(model: str) -> Path:
    from httpx import HTTPError
    from huggingface_hub import HfApi, snapshot_download

    wanted = [T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE, TOKENIZER_FILE, VOICE_FILE]
    logger.info("Looking for %s at the hub, then in the local cache", model)
    unreachable: Exception | None = None
    try:
        HfApi().repo_info(model, timeout=_HUB_ANSWER_S)  # snapshot_download's own first call would wait for ever
    except (HTTPError, OSError, ValueError) as error:
        unreachable = error
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, local_files_only=unreachable is not None))
    except (HTTPError, OSError, ValueError) as error:
        cause = unreachable or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ModelUnavailable(
            f"{model}: {', '.join(wanted)} are neither in the local hub cache nor could they be downloaded "
            f"({reason}). {WAYS_OUT}"
        ) from error


def _folder_spec(path: Path) -> ModelSpec:
    """What a folder's config file says of the model; Chatterbox where there is none, or one of the hub's own."""
    if not path.is_file():
        return _read_spec(SPECS / "chatterbox.json")
    try:
        describes = "t3" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ModelUnavailable(
            f"{path} does not describe a model ({error}). Delete it, or download it again."
        ) from error
    return _read_spec(path if describes else SPECS / "chatterbox.json")


def _read_spec(path: Path) -> ModelSpec:
    try:
        return ModelSpec.load(path)
    except (OSError, ValueError, ValidationError) as error:
        raise ModelUnavailable(f"{path} does not describe a model: {' '.join(str(error).split())}") from error


def _random_voice(spec: ModelSpec) -> Voice:
    """A voice of made-up conditioning, the same for one seed."""
    assert spec.random_weights is not None
    generator = torch.Generator().manual_seed(spec.random_weights.seed)
    tokens = spec.random_weights.prompt_tokens
    frames = FRAMES_PER_TOKEN * tokens
    return Voice(
        id=DEFAULT_VOICE,
        name=DEFAULT_VOICE,
        created=0,
        model=spec.name,
        speaker=torch.nn.functional.normalize(torch.randn(1, spec.t3.speaker_width, generator=generator)),
        t3_prompt=torch.randint(0, spec.s3gen.token_vocab, (1, spec.t3.prompt_tokens), generator=generator),
        s3gen_prompt=torch.randint(0, spec.s3gen.token_vocab, (1, tokens), generator=generator),
        s3gen_feat=torch.randn(1, frames, spec.s3gen.mel_bins, generator=generator) - 6.0,
        s3gen_speaker=torch.randn(1, spec.s3gen.speaker_width, generator=generator),
    )
