"""jobs: have long texts spoken by a running service, and fetch their files."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from chatterbox_engine.errors import InvalidRequest
from cli import server
from cli.files import output
from deployments.book import BookFormat

_JOBS = "/v1/audio/jobs"
_LOOK_AGAIN_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser("add", help="begin one; with -o wait for its file")
    adding.add_argument("text", type=Path, help="a text file, whose Markdown headings begin chapters")
    adding.add_argument("--title", help="the file's name where it is not given")
    adding.add_argument("--voice", help="a voice's name or id")
    adding.add_argument("--seed", type=int)
    adding.add_argument("--format", choices=get_args(BookFormat), help="by the ending of -o, or m4b")
    fetching = actions.add_parser("fetch", help="wait for one, and fetch its file")
    for action, needed in ((adding, False), (fetching, True)):
        action.add_argument("-o", "--output", type=Path, required=needed, help="where the file goes")
    others = [
        actions.add_parser("show", help="how far one is, and its chapters"),
        actions.add_parser("pause", help="hold one"),
        actions.add_parser("resume", help="go on with one that is paused or has failed"),
        actions.add_parser("cancel", help="end one, and let go of what was said"),
        actions.add_parser("rm", help="forget one, with its file"),
    ]
    for action in (fetching, *others):
        action.add_argument("job", help="its id")
    for action in (adding, fetching, *others, actions.add_parser("list", help="which there are")):
        server.add_arguments(action)


def run(given: argparse.Namespace) -> None:
    """Raises InvalidRequest, FileNotFoundError, Unanswered."""
    service = server.needed(given)
    if given.action == "add":
        job = service.json("POST", _JOBS, json=_asked(given))
        print(job["id"])
        if given.output:
            _fetch(service, job["id"], given.output)
    elif given.action == "fetch":
        _fetch(service, given.job, given.output)
    elif given.action == "list":
        for job in service.json("GET", _JOBS)["data"]:
            _tell(job)
    elif given.action == "rm":
        service.json("DELETE", f"{_JOBS}/{given.job}")
    elif given.action == "show":
        job = service.json("GET", f"{_JOBS}/{given.job}")
        _tell(job)
        for chapter in job["chapters"]:
            print(f"\t{chapter['start']:.1f} s\t{chapter['title']}")
    else:
        _tell(service.json("POST", f"{_JOBS}/{given.job}/{given.action}"))


def _asked(given: argparse.Namespace) -> dict[str, Any]:
    form = given.format or (given.output.suffix.removeprefix(".") if given.output else "m4b")
    if form not in get_args(BookFormat):
        raise InvalidRequest(f"{given.output} ends with none of {', '.join(get_args(BookFormat))}.", "output")
    try:
        text = given.text.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{given.text} is no text in UTF-8: {error}", "text") from error
    asked = {"input": text, "title": given.title or given.text.stem, "voice": given.voice, "seed": given.seed}
    return {"response_format": form, **{name: value for name, value in asked.items() if value is not None}}


def _fetch(service: server.Server, job: str, path: Path) -> None:
    """Wait until a job is done, with a bar, and write its file. Raises InvalidRequest where it comes to another end."""
    with tqdm(unit=" pieces", file=sys.stderr, disable=None) as bar:
        while True:
            told = service.json("GET", f"{_JOBS}/{job}")
            bar.total = told["pieces"]
            bar.update(told["pieces_done"] - bar.n)
            if told["status"] in ("done", "failed", "cancelled", "paused"):
                break
            time.sleep(_LOOK_AGAIN_S)
    if told["status"] != "done":
        raise InvalidRequest(f"The job {job} is {told['status']}. {told['error'] or ''}".strip(), "job")
    with output(path) as part, part.open("wb") as file:
        file.writelines(service.parts("GET", f"{_JOBS}/{job}/file"))


def _tell(job: dict[str, Any]) -> None:
    done = f"{job['pieces_done']} of {job['pieces']} pieces, {job['seconds']:.1f} s"
    left = "" if job["seconds_left"] is None else f", {job['seconds_left']:.0f} s left"
    print(f"{job['id']}\t{job['title']}\t{job['status']}\t{done}{left}")
