"""Chatterbox text-to-speech, made fast. Knows nothing of Ray or HTTP."""

from chatterbox_engine.config import EngineConfig
from chatterbox_engine.tts import OptimizedChatterboxTTS

__all__ = ["EngineConfig", "OptimizedChatterboxTTS"]
