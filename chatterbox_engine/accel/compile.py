"""torch.compile as a switch that falls back."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from chatterbox_engine.config import Compile
from chatterbox_engine.errors import reason

logger = logging.getLogger(__name__)


def compiled(function: Callable[..., Any], mode: Compile, what: str) -> Callable[..., Any]:
    """The function under torch.compile; `off` gives it back as it is.

    A compiler that is missing or fails is said once, and from then on the function runs eagerly.
    """
    if mode == "off":
        return function
    fast: Callable[..., Any] | None = torch.compile(function, mode=None if mode == "default" else mode)

    def run(*arguments: Any) -> Any:
        nonlocal fast
        if fast is None:
            return function(*arguments)
        try:
            return fast(*arguments)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, RuntimeError) as error:
            logger.warning("compile: %s could not be compiled (%s); running it eagerly.", what, reason(error))
            fast = None
            return function(*arguments)

    return run
