"""python -m benchmarks NAME: one command for every measurement."""

import argparse
import logging
import os
import sys
import warnings
from types import ModuleType

from chatterbox_engine.errors import InvalidRequest, ModelUnavailable

_NAMES = (
    "t3", "s3gen", "vocoder", "e2e", "ab", "scheduler", "deadlines", "listeners", "streaming", "bandwidth", "syncs",
    "quality", "overhead", "render",
)  # fmt: skip

warnings.filterwarnings(
    "ignore", message="pkg_resources"
)  # perth's import of it; here, so that spawned processes do too


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"benchmarks.{name}")


def main(arguments: list[str] | None = None) -> None:
    """Run one benchmark. Ends with a sentence where what was asked for cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    modules = {name: _module(name) for name in _NAMES}
    for name, module in modules.items():
        told = (module.__doc__ or "").split("\n\n")[0].partition(": ")[2].replace("%", "%%")
        module.add_arguments(commands.add_parser(name, help=told, description=module.__doc__))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=os.environ.get("LOGLEVEL", "WARNING"))
    try:
        modules[options.command].run(options)
    except (InvalidRequest, ModelUnavailable) as error:
        sys.exit(f"{parser.prog} {options.command}: {error}")


if __name__ == "__main__":
    main()
