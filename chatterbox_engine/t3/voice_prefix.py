"""What a voice's conditioning costs is paid once: its embeddings, and their keys and values, are kept."""

from collections import OrderedDict
from typing import TypeVar

from torch import Tensor

from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import T3Voice

Key = TypeVar("Key")

_LIMIT_BYTES = 256 * 2**20
"""Of each kind of tensors, those used last; 60 voices of Chatterbox in bf16, or 6 of turbo, whose prompts are long."""


class VoicePrefixes:
    """Embeddings (P, W) by voice and, once a prompt of that voice has been prefilled, their part of the KV cache.

    The conditioning stands first in a row and attention is causal, so its keys and values do not depend on the text or
    on the row of CFG. The unconditioned row goes on with positions without words: its keys and values depend on the
    voice, on the exaggeration, and on the text's length alone, so that those of the longest text serve all others.
    """

    def __init__(self, model: T3Model) -> None:
        self._model = model
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()
        self._keys_values: OrderedDict[str, Tensor] = OrderedDict()
        self._wordless: OrderedDict[tuple[str, float], Tensor] = OrderedDict()

    def embeddings(self, voice: T3Voice, keep: bool) -> Tensor:
        """The voice's part of a prompt, computed at its first use if it is to be kept."""
        if voice.id in self._embeddings:
            return _used(self._embeddings, voice.id)
        device = self._model.device
        made = self._model.voice_prefix(voice.speaker.to(device), voice.prompt.to(device))
        if keep:
            _put(self._embeddings, voice.id, made)
        return made

    def keys_values(self, voice_id: str) -> Tensor | None:
        """(layers, 2, H, P, D), or None before the first."""
        return _used(self._keys_values, voice_id) if voice_id in self._keys_values else None

    def keep_keys_values(self, voice_id: str, made: Tensor) -> None:
        """Keep what the cache has after a prefill."""
        _put(self._keys_values, voice_id, made)

    def wordless(self, voice_id: str, exaggeration: float, positions: int) -> Tensor | None:
        """The unconditioned row's keys and values up to its text's end, or None where no text was as long."""
        key = voice_id, exaggeration
        if key not in self._wordless or self._wordless[key].shape[3] < positions:
            return None
        return _used(self._wordless, key)[:, :, :, :positions]

    def keep_wordless(self, voice_id: str, exaggeration: float, made: Tensor) -> None:
        """Keep what the cache has of an unconditioned row after a prefill."""
        _put(self._wordless, (voice_id, exaggeration), made)

    def clear(self) -> None:
        self._embeddings.clear()
        self._keys_values.clear()
        self._wordless.clear()


def _used(kept: OrderedDict[Key, Tensor], key: Key) -> Tensor:
    kept.move_to_end(key)
    return kept[key]


def _put(kept: OrderedDict[Key, Tensor], key: Key, made: Tensor) -> None:
    kept[key] = made
    while len(kept) > 1 and sum(tensor.nbytes for tensor in kept.values()) > _LIMIT_BYTES:
        kept.popitem(last=False)
