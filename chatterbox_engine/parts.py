"""Modules of a package, without the rest of it that its `__init__` would import."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def parts_of(*packages: str) -> Iterator[None]:
    """Inside, modules of these packages are imported without running the packages' own `__init__`.

    chatterbox's imports transformers, its Llama and the compiler that those want, for tens of seconds, where a mel and
    two encoders are asked for. A package that is imported already is left as it is. One that was not is as new
    afterwards: it is run when somebody imports it, and finds its modules that are there. Another thread that imports
    the package itself meanwhile finds it empty.

    `packages`: an outer one before those in it. Raises ModuleNotFoundError where one is not installed.
    """
    bare = [name for name in packages if name not in sys.modules]
    try:
        for name in bare:
            sys.modules[name] = _bare(name)
        yield
    finally:
        for name in bare:
            sys.modules.pop(name, None)


def _bare(name: str) -> ModuleType:
    """A module that knows where its own are, and nothing else."""
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = list(spec.submodule_search_locations or ())
    return module
