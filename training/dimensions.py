"""The bundled voice's model: the spec that its config file holds, and what stages share of it."""

from functools import cache
from pathlib import Path

from chatterbox_engine.spec import ModelSpec

LOGS = Path(__file__).parent / "logs"
CONFIG = Path(__file__).parent / "config.json"
"""Becomes the checkpoint's own."""


@cache
def spec() -> ModelSpec:
    return ModelSpec.load(CONFIG)
