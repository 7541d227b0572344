"""The bundled voice's model: the spec that its config file holds, and what stages share of it."""

from functools import cache
from pathlib import Path

import chatterbox_engine
from chatterbox_engine.checkpoint import CONFIG_FILE, DEMO
from chatterbox_engine.spec import ModelSpec

LOGS = Path(__file__).parent / "logs"
CONFIG = Path(chatterbox_engine.__file__).parent / DEMO / CONFIG_FILE
"""The bundled model's, and every checkpoint's that is made."""


@cache
def spec() -> ModelSpec:
    return ModelSpec.load(CONFIG)
