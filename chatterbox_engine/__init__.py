"""Chatterbox text-to-speech, made fast. Knows nothing of Ray or HTTP."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatterbox_engine.config import EngineConfig
    from chatterbox_engine.multilingual_tts import OptimizedChatterboxMultilingualTTS
    from chatterbox_engine.tts import OptimizedChatterboxTTS
    from chatterbox_engine.turbo_tts import OptimizedChatterboxTurboTTS

__version__ = "0.1.0"
__all__ = [
    "EngineConfig",
    "OptimizedChatterboxMultilingualTTS",
    "OptimizedChatterboxTTS",
    "OptimizedChatterboxTurboTTS",
]
_WHERE = {
    "EngineConfig": "config",
    "OptimizedChatterboxMultilingualTTS": "multilingual_tts",
    "OptimizedChatterboxTTS": "tts",
    "OptimizedChatterboxTurboTTS": "turbo_tts",
}


def __getattr__(name: str) -> Any:
    """What is exported, imported when it is first asked for: processes that only talk to an engine do without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
