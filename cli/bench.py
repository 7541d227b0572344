"""bench: text to audio on this machine, one stream and several at once."""

import argparse
import tempfile
from pathlib import Path

from benchmarks import e2e, subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser, model="auto")
    parser.set_defaults(repeats=3, output=None, text=e2e.TEXT, tokens=125, reference_e2e=False)
    parser.add_argument("--streams", type=int, default=8, help="at once, beside one (default: %(default)s)")


def run(given: argparse.Namespace) -> None:
    """`python -m benchmarks e2e`, whose figures stay nowhere unless --output says so. Raises InvalidRequest."""
    with tempfile.TemporaryDirectory() as folder:
        given.output = given.output or Path(folder)
        e2e.run(given)
