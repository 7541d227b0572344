"""python -m cli: speak, keep voices, jobs and keys, and see what this machine would do."""

import argparse
import logging
import sys
import warnings
from importlib import import_module

warnings.filterwarnings("ignore", message="pkg_resources")  # perth's import of it

from chatterbox_engine.errors import ChatterboxError  # noqa: E402 (after the filter)

COMMANDS = ("say", "voices", "jobs", "keys", "doctor", "bench", "drain")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {name: import_module(f"cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        told = (module.__doc__ or "").partition(": ")[2].partition("\n")[0]
        module.add_arguments(commands.add_parser(name, help=told, description=told))
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        modules[given.command].run(given)
    except (ChatterboxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
