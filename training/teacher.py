"""The teacher: hibari-tts (Apache-2.0), asked for its durations and its pitch beside the audio."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from hibari import Hibari, dsp

from chatterbox_engine.text.normalise import normalise
from training import dimensions

DURATION_SAMPLES = 600
"""A unit of the teacher's durations."""
F0_SAMPLES = 300
"""A frame of its pitch."""
_DURATIONS = "/Clip_output_0"
_LEAD, _TAIL = 2, 6
"""Units of silence kept before and after the words; the teacher makes more."""
_VOICED_HZ = 40.0


@dataclass(frozen=True)
class Spoken:
    """An utterance of the teacher's."""

    phonemes: str
    durations: np.ndarray
    """(symbols,) int: units of each symbol of `phonemes`; the first and the last hold the silence around them."""
    f0: np.ndarray
    """(F,) float32 Hz, 80 a second; 0 is unvoiced."""
    audio: np.ndarray
    """(units * 600,) float32."""


class Teacher:
    """Speaks with the voice `heart`."""

    def __init__(self) -> None:
        self._tts = Hibari()
        graph = onnx.load(self._tts.model_path)
        graph.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=providers)

    def say(self, text: str, exaggeration: float = 0.5, seed: int = 0) -> Spoken:
        """Speak a text; its pitch swings around its mean as far as `exaggeration` says, 0.5 being the teacher's own."""
        read = normalise(text, dimensions.spec().family)
        parts = [self._sentence(part, exaggeration, seed) for part in self._tts.phonemize(read)]
        phonemes = " ".join(part.phonemes for part in parts)
        durations: list[int] = []
        for index, part in enumerate(parts):
            own = part.durations.tolist()
            if index:  # the space between two sentences is their silence
                own = [durations.pop() + own[0], *own[1:]]
            durations += own
        return Spoken(
            phonemes,
            np.array(durations),
            np.concatenate([part.f0 for part in parts]),
            np.concatenate([part.audio for part in parts]),
        )

    def _sentence(self, phonemes: str, exaggeration: float, seed: int) -> Spoken:
        """One sentence; its durations have a place for the silence before and after it."""
        known = "".join(symbol for symbol in phonemes if symbol in self._tts.vocab)
        names = [*(output.name for output in self._session.get_outputs())]
        feed = {"ids": np.asarray([self._tts.ids(known)], np.int64), "speed": np.ones(1, np.float32)}
        made = dict(zip(names, self._session.run(None, feed), strict=True))
        f0 = _swung(made["f0"][0], exaggeration)
        spectrum = (made[name][0] for name in ("lh", "theta", "ln", "lr", "phi"))
        audio = dsp.synth(*spectrum, f0, np.random.default_rng(seed))
        durations = made[_DURATIONS].reshape(-1).astype(int)
        lead, tail = max(durations[0] - _LEAD, 0), max(durations[-1] - _TAIL, 0)
        units = durations.sum()
        durations[0] -= lead
        durations[-1] -= tail
        kept = slice(lead, units - tail)
        audio = audio[kept.start * DURATION_SAMPLES : kept.stop * DURATION_SAMPLES]
        per_unit = DURATION_SAMPLES // F0_SAMPLES
        f0 = f0[kept.start * per_unit : kept.stop * per_unit]
        return Spoken(known, durations, np.where(f0 > _VOICED_HZ, f0, 0.0).astype(np.float32), audio)


def _swung(f0: np.ndarray, exaggeration: float) -> np.ndarray:
    voiced = f0 > _VOICED_HZ
    if exaggeration == 0.5 or not voiced.any():
        return f0
    logs = np.log(f0[voiced])
    middle = logs.mean()
    swung = f0.copy()
    swung[voiced] = np.exp(middle + (logs - middle) * (0.4 + 1.2 * exaggeration))
    return swung
