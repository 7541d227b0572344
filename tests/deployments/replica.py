"""A deployment's object in the tests' own process."""

import sys
from typing import Any

import pytest
from ray.serve import Deployment


def replica(deployment: Deployment, *arguments: Any) -> Any:
    """What Serve would make in a replica's process; without a watcher, which would kill the tests' at its end.

    A watcher strikes where a process does not stir for 8 s, and an interpreter's end can take that long.
    """
    made: Any = deployment.func_or_class
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[made.__module__], "watch", lambda *_: None)
        return made(*arguments)
