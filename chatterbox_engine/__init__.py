"""Chatterbox text-to-speech, made fast. Knows nothing of Ray or HTTP."""

__version__ = "0.1.0"

from chatterbox_engine.config import EngineConfig
from chatterbox_engine.multilingual_tts import OptimizedChatterboxMultilingualTTS
from chatterbox_engine.tts import OptimizedChatterboxTTS
from chatterbox_engine.turbo_tts import OptimizedChatterboxTurboTTS

__all__ = [
    "EngineConfig",
    "OptimizedChatterboxMultilingualTTS",
    "OptimizedChatterboxTTS",
    "OptimizedChatterboxTurboTTS",
]
