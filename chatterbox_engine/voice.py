"""A voice: what a reference clip becomes, once, so that no request pays for it again."""

import hashlib
import json
import pickle
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from chatterbox_engine.errors import InvalidRequest, ModelUnavailable
from chatterbox_engine.files import whole
from chatterbox_engine.types import DEFAULT_VOICE, FRAMES_PER_TOKEN, VALID_TOKENS, S3GenVoice, T3Voice

if TYPE_CHECKING:
    from chatterbox.tts import Conditionals

VOICE_ID = re.compile(r"voice_[0-9a-f]{16}")
_FORMAT = "chatterbox-voice-1"
HEADER_BYTES = 16_384
"""A voice's file tells all but its tensors within them."""
_TENSORS = ("speaker", "t3_prompt", "s3gen_prompt", "s3gen_feat", "s3gen_speaker")
_FIELDS = {"format", "id", "name", "created", "model"}
_MORE = {"description", "consent"}
"""Fields that files of before do not have."""


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """What can be told of a voice without its tensors."""

    id: str
    name: str
    created: int
    """Seconds since 1970."""
    model: str
    """The model whose encoders made it."""
    description: str = ""
    consent: bool = False
    """Whoever added it says that the speaker agreed."""


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """The conditioning of T3 and S3Gen by a clip, on the CPU. Two voices with one `id` are the same."""

    id: str
    name: str
    created: int
    model: str
    speaker: Tensor
    """(1, 256) float32: T3's speaker embedding."""
    t3_prompt: Tensor
    """(1, n) int64: speech tokens of the part of the clip that conditions T3, at most `T3Spec.prompt_tokens`."""
    s3gen_prompt: Tensor
    """(1, n) int64: speech tokens of the clip's first 10 s."""
    s3gen_feat: Tensor
    """(1, 2n, 80) float32: their log-mel frames."""
    s3gen_speaker: Tensor
    """(1, 192) float32: S3Gen's speaker embedding."""
    description: str = ""
    consent: bool = False

    @property
    def info(self) -> VoiceInfo:
        return VoiceInfo(self.id, self.name, self.created, self.model, self.description, self.consent)

    def for_t3(self) -> T3Voice:
        return T3Voice(self.id, self.speaker, self.t3_prompt)

    def for_s3gen(self) -> S3GenVoice:
        return S3GenVoice(self.id, self.s3gen_prompt, self.s3gen_feat, self.s3gen_speaker)

    def to_bytes(self) -> bytes:
        """One safetensors file; id, name, created and model stand in its header."""
        header = {"format": _FORMAT, **{key: str(value) for key, value in asdict(self.info).items()}}
        return safetensors.torch.save({name: getattr(self, name) for name in _TENSORS}, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Voice":
        """The voice in a file that `to_bytes` made. Raises InvalidRequest (param "file") for any other."""
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            info = _info(header.get("__metadata__"))
            named: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
            return cls(**asdict(info), **named)._checked()
        except (SafetensorError, KeyError, ValueError) as error:
            raise InvalidRequest(
                f"This is not a voice, or a damaged one ({error}). Make it again from its clip.", "file"
            ) from error

    def save(self, path: Path) -> None:
        """Write `to_bytes` to a file, which is there whole or not at all. Raises OSError."""
        with whole(path) as part:
            part.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> "Voice":
        """Read a file that `save` wrote. Raises InvalidRequest (param "file") naming a file that is not one."""
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise InvalidRequest(f"The voice {path} cannot be read: {error.strerror}.", "file") from error
        except InvalidRequest as error:
            raise InvalidRequest(f"{path}: {error.message}", "file") from error

    @classmethod
    def from_parts(cls, t3: dict[str, Any], gen: dict[str, Any], name: str, model: str, id: str = "") -> "Voice":
        """A voice of the two dictionaries in a `conds.pt`; the tensors are copied to the CPU.

        A last mel frame without a token is dropped. Without an `id`, it is made of the tensors. Raises ValueError or
        KeyError where something is missing or does not fit.
        """
        feat = _copy(gen["prompt_feat"], torch.float32)
        prompt = _copy(gen["prompt_token"], torch.int64)
        parts: dict[str, Any] = {
            "speaker": _copy(t3["speaker_emb"], torch.float32),
            "t3_prompt": _copy(t3["cond_prompt_speech_tokens"], torch.int64),
            "s3gen_prompt": prompt,
            "s3gen_feat": feat[:, : FRAMES_PER_TOKEN * prompt.shape[-1]].contiguous(),
            "s3gen_speaker": _copy(gen["embedding"], torch.float32),
        }
        content = b"".join(tensor.numpy().tobytes() for tensor in parts.values())
        return cls(id or voice_id(content, model), name, int(time.time()), model, **parts)._checked()

    @classmethod
    def from_conditionals(cls, conditionals: "Conditionals", name: str, model: str, id: str = "") -> "Voice":
        """A voice of chatterbox-tts's own object. Raises InvalidRequest where it lacks something; see `from_parts`."""
        try:
            return cls.from_parts(vars(conditionals.t3), conditionals.gen, name=name, model=model, id=id)
        except (KeyError, ValueError) as error:
            raise InvalidRequest(f"These are not conditionals of Chatterbox: {error}.", "conditionals") from error

    @classmethod
    def from_conditionals_file(cls, path: Path, *, model: str, name: str = DEFAULT_VOICE) -> "Voice":
        """The built-in voice, `conds.pt`; its id is DEFAULT_VOICE. Raises ModelUnavailable where it is damaged."""
        try:
            parts = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(parts, dict):
                raise TypeError("it holds no dictionary")
            return cls.from_parts(parts["t3"], parts["gen"], name=name, model=model, id=DEFAULT_VOICE)
        except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise ModelUnavailable(
                f"{path} is not a built-in voice of Chatterbox ({type(error).__name__}: {error}). Download it again."
            ) from error

    def to_conditionals(self, exaggeration: float = 0.5) -> "Conditionals":
        """chatterbox-tts's own object, which carries the exaggeration, too. Imports chatterbox, which is slow."""
        from chatterbox.models.t3.modules.cond_enc import T3Cond
        from chatterbox.tts import Conditionals

        t3 = T3Cond(
            speaker_emb=self.speaker.clone(),
            cond_prompt_speech_tokens=self.t3_prompt.clone(),
            emotion_adv=exaggeration * torch.ones(1, 1, 1),
        )
        gen = {
            "prompt_token": self.s3gen_prompt.clone(),
            "prompt_token_len": torch.tensor([self.s3gen_prompt.shape[1]]),
            "prompt_feat": self.s3gen_feat.clone(),
            "prompt_feat_len": None,
            "embedding": self.s3gen_speaker.clone(),
        }
        return Conditionals(t3, gen)

    def _checked(self) -> "Voice":
        """Itself, if a model can take it. Raises ValueError."""
        tokens = self.s3gen_prompt.shape[-1]
        shapes = {
            "speaker": (1, -1),
            "t3_prompt": (1, -1),
            "s3gen_prompt": (1, -1),
            "s3gen_feat": (1, FRAMES_PER_TOKEN * tokens, -1),
            "s3gen_speaker": (1, -1),
        }
        for name, shape in shapes.items():
            tensor: Tensor = getattr(self, name)
            fits = tensor.dim() == len(shape) and all(w in (-1, n) for w, n in zip(shape, tensor.shape, strict=True))
            if not fits or tensor.numel() == 0:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}")
            if tensor.dtype is not (torch.int64 if name.endswith("prompt") else torch.float32):
                raise ValueError(f"{name} is {tensor.dtype}")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite")
            if not tensor.is_floating_point() and not 0 <= int(tensor.min()) <= int(tensor.max()) < VALID_TOKENS:
                raise ValueError(f"{name} has tokens outside 0 to {VALID_TOKENS - 1}")
        return self


def voice_id(content: bytes, model: str) -> str:
    """The id of what a model's encoders make of some content."""
    return "voice_" + hashlib.sha256(content + b"\0" + model.encode()).hexdigest()[:16]


def read_info(start: bytes, size: int) -> VoiceInfo:
    """What the first HEADER_BYTES of a file of so many bytes tell. Raises InvalidRequest (param "file")."""
    try:
        length = int.from_bytes(start[:8], "little")
        header = json.loads(start[8 : 8 + length])
        info = _info(header.pop("__metadata__", None))
        if 8 + length + max(tensor["data_offsets"][1] for tensor in header.values()) != size:
            raise ValueError("it is cut")
        return info
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"This is not a voice, or a damaged one ({error}).", "file") from error


def _info(header: dict[str, str] | None) -> VoiceInfo:
    """Raises ValueError where the header is not a voice's."""
    if not header or set(header) - _MORE != _FIELDS or header["format"] != _FORMAT:
        raise ValueError("its header is not a voice's")
    more = header.get("description", ""), header.get("consent") == str(True)
    return VoiceInfo(header["id"], header["name"], int(header["created"]), header["model"], *more)


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()
