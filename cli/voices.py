"""voices: list, add and remove the voices of a running service."""

import argparse
from pathlib import Path
from urllib.parse import quote

from cli import server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser("add", help="make a voice from a clip")
    adding.add_argument("clip", type=Path, help="wav, flac, mp3, ogg, m4a or webm, of one speaker")
    adding.add_argument("--name", help="the clip's file name where it is not given")
    removing = actions.add_parser("rm", help="delete a voice")
    removing.add_argument("voice", help="its name or id")
    for action in (adding, removing, actions.add_parser("list", help="which there are")):
        server.add_arguments(action)


def run(given: argparse.Namespace) -> None:
    """Raises InvalidRequest, FileNotFoundError, Unanswered."""
    service = server.needed(given)
    if given.action == "add":
        with given.clip.open("rb") as clip:
            form = {"data": {"name": given.name or given.clip.stem[:64]}, "files": {"file": (given.clip.name, clip)}}
            _tell(service.json("POST", "/v1/voices", **form))
    elif given.action == "rm":
        found = service.json("GET", f"/v1/voices/{quote(given.voice, safe='')}")
        service.json("DELETE", f"/v1/voices/{found['id']}")
    else:
        for voice in service.json("GET", "/v1/voices")["data"]:
            _tell(voice)


def _tell(voice: dict[str, object]) -> None:
    whose = "built in" if voice["builtin"] else "private" if voice["private"] else "everybody's"
    print(f"{voice['id']}\t{voice['name']}\t{whose}")
