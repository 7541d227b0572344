"""OptimizedChatterboxTurboTTS: the drop-in class for ChatterboxTurboTTS."""

import os
from collections.abc import Generator

from torch import Tensor

from chatterbox_engine.speaker import Call, Speaker
from chatterbox_engine.utterance import StreamingMetrics


class OptimizedChatterboxTurboTTS(Speaker):
    """`chatterbox.tts_turbo.ChatterboxTurboTTS`, with the same calls and the fast engine behind them.

    `model="chatterbox-nano"` loads the smaller T3.
    """

    MODEL = "chatterbox-turbo"

    def generate(
        self,
        text: str,
        repetition_penalty: float | None = None,
        min_p: float | None = None,
        top_p: float | None = None,
        audio_prompt_path: str | os.PathLike[str] | None = None,
        exaggeration: float | None = None,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        norm_loudness: bool | None = None,
        *,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        language_id: str | None = None,
    ) -> Tensor:
        """Speak a text of any length; float32 (1, samples) at 24 kHz.

        None is the family's default. What chatterbox-tts ignores here (`exaggeration`, `cfg_weight`, `min_p`) must be
        None or 0. The same seed gives the same audio; None draws one from torch's generator. Raises InvalidRequest.
        """
        return self._whole(Call.of(locals()))

    def generate_stream(
        self,
        text: str,
        repetition_penalty: float | None = None,
        min_p: float | None = None,
        top_p: float | None = None,
        audio_prompt_path: str | os.PathLike[str] | None = None,
        exaggeration: float | None = None,
        cfg_weight: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        norm_loudness: bool | None = None,
        *,
        chunk_size: int | None = None,
        context_window: int | None = None,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        language_id: str | None = None,
    ) -> Generator[tuple[Tensor, StreamingMetrics], None, None]:
        """`generate`, chunk by chunk: ((1, samples), metrics) pairs. Closing the generator cancels.

        `chunk_size` is in speech tokens (25 a second); None is the configuration's schedule, which starts small and
        grows. `context_window` is how many earlier tokens the flow sees again with each chunk; None: all of them.
        """
        return self._stream(Call.of(locals()))
