"""How alike two voices are: the cosine of their embeddings, by Resemblyzer's weights in chatterbox-tts's encoder."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from benchmarks import extras
from benchmarks.waveform import resampled
from chatterbox_engine.types import SAMPLE_RATE

NAME = "Resemblyzer's voice encoder"
_RATE = 16_000
_SHORTEST_S = 0.2
_SILENCE = 1e-4
"""RMS of -80 dBFS."""


class VoicePrint:
    """The encoder. Raises ModelUnavailable without Resemblyzer's file of weights."""

    def __init__(self) -> None:
        path = extras.file_in("resemblyzer", "pretrained.pt")
        from chatterbox.models.voice_encoder import VoiceEncoder  # takes some ten seconds

        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        self._encoder = VoiceEncoder()
        self._encoder.load_state_dict({name.replace("linear.", "proj."): tensor for name, tensor in weights.items()})
        self._encoder.eval()

    def __call__(self, audio: np.ndarray) -> np.ndarray | None:
        """The embedding (256,) of length 1 of (samples,) float32 at 24 kHz; None where there is nothing to hear."""
        if len(audio) < _SHORTEST_S * SAMPLE_RATE or float(np.sqrt(np.mean(np.square(audio)))) < _SILENCE:
            return None
        embedding: np.ndarray = self._encoder.embeds_from_wavs([resampled(audio, _RATE)], sample_rate=_RATE)[0]
        return embedding

    def of_voice(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """One embedding (256,) of several clips of the same voice. Raises ValueError where nothing is to be heard."""
        found = [embedding for embedding in map(self, clips) if embedding is not None]
        if not found:
            raise ValueError("these clips hold nothing that could be heard")
        mean: np.ndarray = np.mean(found, axis=0)
        return mean / np.linalg.norm(mean)


@cache
def voice_print() -> VoicePrint:
    """The process's one. Raises ModelUnavailable."""
    return VoicePrint()


def likeness(audio: np.ndarray, voice: np.ndarray) -> float | None:
    """The cosine between a clip's embedding and a voice's; None where there is nothing to hear."""
    own = voice_print()(audio)
    return None if own is None else float(own @ voice)
