"""keys: add, list and remove the API keys that a service asks for."""

import argparse
from pathlib import Path

from deployments import keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, required=True, help="what serve_config.yaml names as keys_file")
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser("add", help="make a key; it is shown this once")
    adding.add_argument("name", help="whose it is; private voices belong to this name")
    adding.add_argument("--requests-per-minute", type=int)
    adding.add_argument("--streams", type=int, help="at a time")
    adding.add_argument("--shared-voices", action="store_true", help="its voices are everybody's")
    actions.add_parser("list", help="names and limits")
    actions.add_parser("remove", help="refuse it from now on").add_argument("name")


def run(given: argparse.Namespace) -> None:
    """Raises InvalidRequest, FileNotFoundError."""
    if given.action == "add":
        limits = {name: getattr(given, name) for name in ("requests_per_minute", "streams", "shared_voices")}
        print(keys.add(given.file, given.name, **limits))
    elif given.action == "remove":
        keys.remove(given.file, given.name)
    else:
        for key in keys.read(given.file):
            print(key.name, key.model_dump(exclude={"name", "digest"}, exclude_defaults=True) or "")
