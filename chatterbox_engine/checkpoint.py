"""Where a model comes from: name, hub id, folder, demo or dummy weights -> its spec, tensors, tokenizer and voice."""

import json
import logging
import os
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from chatterbox_engine.config import S3GenSwitches
from chatterbox_engine.errors import InvalidRequest, ModelUnavailable, reason
from chatterbox_engine.spec import SPECS, ModelSpec, VocosSpec
from chatterbox_engine.text import TextTokenizer, gpt2, stand_in
from chatterbox_engine.text.cangjie import Cangjie
from chatterbox_engine.types import DEFAULT_VOICE, FRAMES_PER_TOKEN
from chatterbox_engine.voice import Voice
from chatterbox_engine.voice_encoder import VoiceEncoder
from chatterbox_engine.weights import RandomWeights, SafetensorsWeights, StateDictWeights, Weights

if TYPE_CHECKING:
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS
    from chatterbox.tts import ChatterboxTTS
    from chatterbox.tts_turbo import ChatterboxTurboTTS

logger = logging.getLogger(__name__)

HUB_MODEL = "ResembleAI/chatterbox"
_HUB_ANSWER_S = 10.0
"""Seconds without an answer after which the hub counts as out of reach."""
DEMO = "demo"
"""What speaks where there is no GPU: the bundled model, which training/ made."""
_BUNDLED = Path(__file__).parent / DEMO
T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE = "t3", "s3gen", "voice_encoder"
"""Files of weights by their field in FilesSpec, which says what they are called."""
CONFIG_FILE = "config.json"
VOCOS_SPEC = "vocos"
"""In the metadata of a file of Vocos: its VocosSpec, as JSON."""
TINY = "tiny"
"""`dummy:tiny` has a Chatterbox's parts, small and random, for tests of everything but sound."""
TIMED = "timed"
"""`dummy:timed` is as small, and takes the time of something bigger, asleep: what is around it can be measured."""
FAMILY = ("chatterbox", "chatterbox-multilingual", "chatterbox-multilingual-v3", "chatterbox-turbo", "chatterbox-nano")
"""Every model that has a name. In a folder that holds several, the first of these is taken."""
WAYS_OUT = (
    "Ways out: `demo` (bundled, no download); `dummy:chatterbox` (full size, random weights) or another dummy; "
    f"{', '.join(f'`{name}`' for name in FAMILY)}, or `{HUB_MODEL}` or another hub id (which need the network once); "
    "or a folder in the hub's layout, with #NAME after it where it holds several models."
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
    folder: Path | None = None
    """Where its files are; None for random weights and a model in memory."""

    def vocos(self, switches: S3GenSwitches) -> tuple[VocosSpec, Weights] | None:
        """The Vocos that is to speak, or None where HiFT is. Raises ModelUnavailable where it was not trained."""
        if switches.vocoder == "hift":
            return None
        if switches.vocos_file is None and self.spec.random_weights is not None:
            return self.spec.s3gen.vocos, RandomWeights(self.spec.random_weights.seed)
        path = self.folder / self.spec.files.vocos if self.folder is not None else None
        if switches.vocos_file is not None:
            path = Path(os.path.expanduser(switches.vocos_file))
        if path is None or not path.is_file():
            missing = f"{self.model} has no folder to look for a Vocos in" if path is None else f"{path} is missing"
            model = self.model if self.folder is not None else "MODEL"
            raise ModelUnavailable(
                f"{missing}. Train a Vocos on the model's own speech (python -m training vocos --model {model} --to "
                "FOLDER) and name its file with s3gen.vocos_file, or use s3gen.vocoder: hift."
            )
        weights = SafetensorsWeights(path)
        try:
            return VocosSpec.model_validate_json(weights.metadata[VOCOS_SPEC]), weights
        except (KeyError, ValidationError) as error:
            raise ModelUnavailable(
                f"{path} does not say which Vocos it is, as `python -m training vocos` writes it."
            ) from error

    def voice_encoder(self) -> VoiceEncoder:
        """What makes voices from clips; takes seconds to load, and only those who upload need it.

        Raises InvalidRequest, as `check_cloning`.
        """
        self.check_cloning()
        return VoiceEncoder(self.spec, self.weights(VOICE_ENCODER_FILE), self.weights(S3GEN_FILE))

    def check_cloning(self) -> None:
        """Raises InvalidRequest (param "file") where the model has one voice and no encoders."""
        if not self.spec.cloning:
            raise InvalidRequest(
                f"{self.spec.name} has one voice and takes no others. Use model {HUB_MODEL} to clone a voice.", "file"
            )

    def tokens_wanted(self, text: str) -> int | None:
        """Valid speech tokens after which to stop, for weights that never sample the stop token; else None."""
        random = self.spec.random_weights
        return None if random is None else max(5, round(len(text) * random.tokens_per_character))


def find(model: str, device: str) -> Checkpoint:
    """Resolve `auto`, `demo`, `dummy:NAME`, a NAME of FAMILY, a folder, or a hub id (which downloads on first use).

    A folder or a hub id may have `#NAME` after it; without, the files there say which model it is.

    Raises ModelUnavailable naming what is missing, where it was looked for, and the ways out.
    """
    if model == "auto":
        model = HUB_MODEL if device.startswith("cuda") else DEMO
    if model == DEMO:
        return _open(model, _BUNDLED, "")
    if model.startswith("dummy:"):
        return _dummy(model)
    if model in FAMILY:
        return _open(model, _download(_named(model).hub or model, model), model)
    place, _, name = model.rpartition("#")
    if name not in FAMILY:
        place, name = model, ""
    folder = Path(os.path.expanduser(place))
    if not folder.is_dir():
        if folder.is_absolute() or place.startswith((".", "~")) or place.count("/") != 1:
            raise ModelUnavailable(f"There is no folder {place} and no model of that name. {WAYS_OUT}")
        name = name or next((known for known in FAMILY if _named(known).hub == place), "")
        folder = _download(place, name)
    return _open(model, folder, name)


def from_reference(model: "ChatterboxTTS | ChatterboxMultilingualTTS | ChatterboxTurboTTS") -> Checkpoint:
    """A model of chatterbox-tts in memory; its tensors are shared where they can be, and it is left as it is.

    Its depths are read off its modules.
    """
    spec = _dimensions_of(model)
    kind = type(model).__name__
    modules = {T3_FILE: model.t3, S3GEN_FILE: model.s3gen, VOICE_ENCODER_FILE: model.ve}

    def tokenizer() -> TextTokenizer:
        own: Any = model.tokenizer
        if spec.tokenizer == "gpt2":
            return TextTokenizer(own.backend_tokenizer, spec, f"the {kind}'s tokenizer")
        cangjie = Cangjie.from_converter(own.cangjie_converter) if spec.files.cangjie else None
        return TextTokenizer(own.tokenizer, spec, f"the {kind}'s tokenizer", cangjie)

    return Checkpoint(
        f"{kind} in memory",
        spec,
        weights=lambda file: StateDictWeights(modules[file].state_dict(), f"the {kind}'s {file}"),
        tokenizer=tokenizer,
        voice=lambda: Voice.from_conditionals(model.conds, "conds", spec.name) if model.conds is not None else None,
    )


def _dimensions_of(model: Any) -> ModelSpec:
    """The spec of a model in memory, with the numbers of layers, blocks and stages that it has."""
    t3, estimator = model.t3, model.s3gen.flow.decoder.estimator
    encoder, tokenizer = model.s3gen.flow.encoder, model.s3gen.tokenizer.config
    own: dict[str, Any]
    if t3.is_gpt:
        config = t3.tfmr.config
        spec = _named("chatterbox-nano" if config.n_embd <= _named("chatterbox-nano").t3.width else "chatterbox-turbo")
        own = {
            "layers": len(t3.tfmr.h),
            "width": config.n_embd,
            "heads": config.n_head,
            "head_width": config.n_embd // config.n_head,
            "mlp_width": config.n_inner or 4 * config.n_embd,
            "gpt2_positions": config.n_positions,
        }
    else:
        spec = _named("chatterbox-multilingual" if t3.hp.is_multilingual else "chatterbox")
        layers = len(t3.tfmr.layers)
        aligned = tuple(head for head in spec.t3.aligned_heads if head[0] < layers)
        own = {
            "layers": layers,
            "aligned_heads": aligned,
            "alignment_guard": spec.t3.alignment_guard and aligned == spec.t3.aligned_heads,
        }
    s3gen = {
        "encoder": {"blocks": len(encoder.encoders), "up_blocks": len(encoder.up_encoders)},
        "estimator": {"mid_stages": len(estimator.mid_blocks), "stage_blocks": len(estimator.down_blocks[0][1])},
    }
    speech_tokenizer = {
        "width": tokenizer.n_audio_state,
        "heads": tokenizer.n_audio_head,
        "layers": tokenizer.n_audio_layer,
    }
    given = spec.model_dump()
    return ModelSpec.model_validate(
        {
            **given,
            "t3": {**given["t3"], **own},
            "s3gen": {**given["s3gen"], **{part: {**given["s3gen"][part], **sizes} for part, sizes in s3gen.items()}},
            "speech_tokenizer": {**given["speech_tokenizer"], **speech_tokenizer},
        }
    )


def _seeded(model: str, spec: ModelSpec) -> Checkpoint:
    """A model whose weights are drawn from a seed; its tokenizer is bundled, or one of the same kind stands in."""
    assert spec.random_weights is not None
    seed = spec.random_weights.seed

    def tokenizer() -> TextTokenizer:
        if spec.tokenizer == "gpt2":
            return TextTokenizer(stand_in.gpt2(), spec, f"the tokenizer of {model}")
        if len(spec.languages) > 1:
            return TextTokenizer(stand_in.multilingual(), spec, f"the tokenizer of {model}")
        return TextTokenizer(stand_in.english(), spec, f"the tokenizer of {model}")

    return Checkpoint(
        model, spec, weights=lambda file: RandomWeights(seed), tokenizer=tokenizer, voice=lambda: _random_voice(spec)
    )


def _dummy(model: str) -> Checkpoint:
    name = model.removeprefix("dummy:")
    if name in (TINY, TIMED):
        return _seeded(model, _named(name))
    if name not in FAMILY:
        raise ModelUnavailable(
            f"There is no {model}. There are: {', '.join('dummy:' + n for n in (*FAMILY, TINY, TIMED))}."
        )
    note = "The full architecture with random weights, for load and speed tests: it makes noise, not speech."
    random = {"random_weights": {}, "name": model, "note": note}
    return _seeded(model, ModelSpec.model_validate({**_named(name).model_dump(), **random}))


def _open(model: str, folder: Path, name: str) -> Checkpoint:
    """The checkpoint in a folder; `name` is one of FAMILY, or empty where the files say which it is."""
    spec = _named(name) if name else _folder_spec(folder)
    files = spec.files
    parts = (T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE) if spec.cloning else (T3_FILE, S3GEN_FILE)
    paths = {part: _present(folder, getattr(files, part)) for part in parts}
    tokenizers = (gpt2.VOCABULARY_FILE, gpt2.MERGES_FILE)
    if spec.tokenizer != "gpt2" or not all((folder / file).is_file() for file in tokenizers):
        _present(folder, files.tokenizer)
    voice = folder / files.voice
    return Checkpoint(
        model,
        spec,
        weights=lambda file: _read_weights(paths[file]),
        tokenizer=lambda: TextTokenizer.from_folder(folder, spec),
        voice=lambda: Voice.from_conditionals_file(voice, model=spec.name) if voice.is_file() else None,
        folder=folder,
    )


def _present(folder: Path, file: str) -> Path:
    """The file, or the safetensors one beside a .pt. Raises ModelUnavailable where neither is there."""
    for path in (folder / file, (folder / file).with_suffix(".safetensors")):
        if path.is_file():
            return path
    raise ModelUnavailable(f"{folder} has no {file}. {WAYS_OUT}")


def _read_weights(path: Path) -> Weights:
    """Raises ModelUnavailable where the file is damaged."""
    if path.suffix == ".safetensors":
        return SafetensorsWeights(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(tensors, dict):
            raise TypeError("it holds no tensors by name")
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise ModelUnavailable(
            f"{path} cannot be read ({error}). It may be cut short: delete it and download it again."
        ) from error
    return StateDictWeights(tensors, str(path))


def _download(repository: str, name: str) -> Path:
    """The local snapshot of a hub repository, with the files of the model `name`, or of whichever it holds."""
    from httpx import HTTPError
    from huggingface_hub import HfApi, snapshot_download

    logger.info("Looking for %s at the hub, then in the local cache", repository)
    wanted: list[str] | None = _files_of(_named(name)) if name else None
    unreachable: Exception | None = None
    try:
        # snapshot_download's own first call would wait for ever
        there = HfApi().model_info(repository, timeout=_HUB_ANSWER_S).siblings or []
        if not name:
            wanted = [CONFIG_FILE, *_files_of(_named(_recognised(file.rfilename for file in there)))]
    except (HTTPError, OSError, ValueError) as error:
        unreachable = error
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, local_files_only=unreachable is not None))
    except (HTTPError, OSError, ValueError) as error:
        cause = unreachable or error
        files = ", ".join(wanted or _files_of(_named(FAMILY[0])))
        raise ModelUnavailable(
            f"{repository}: {files} are neither in the local hub cache nor could they be downloaded ({reason(cause)}). "
            f"{WAYS_OUT}"
        ) from error


def _files_of(spec: ModelSpec) -> list[str]:
    """What to download of a repository."""
    files = [file for file in spec.files.model_dump().values() if file]
    slow = [gpt2.VOCABULARY_FILE, gpt2.MERGES_FILE, gpt2.ADDED_FILE, gpt2.CONFIG_FILE]
    return files + slow if spec.tokenizer == "gpt2" else files


def _recognised(files: Iterable[str]) -> str:
    """The first of FAMILY whose T3 is among the files; the first of all where none is."""
    there = set(files)
    return next((name for name in FAMILY if _named(name).files.t3 in there), FAMILY[0])


def _folder_spec(folder: Path) -> ModelSpec:
    """What a folder's config file says of the model; without one, or with one of the hub's own, what its files say."""
    path = folder / CONFIG_FILE
    try:
        if path.is_file() and "t3" in json.loads(path.read_bytes()):
            return _read_spec(path)
    except (OSError, ValueError, TypeError) as error:
        raise ModelUnavailable(
            f"{path} does not describe a model ({error}). Delete it, or download it again."
        ) from error
    return _named(_recognised(entry.name for entry in folder.iterdir()))


@cache
def _named(name: str) -> ModelSpec:
    return _read_spec(SPECS / f"{name}.json")


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
