"""A running service, as the commands ask it."""

import argparse
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import requests

from chatterbox_engine.errors import ChatterboxError, InvalidRequest

URL, KEY = "CHATTERBOX_URL", "CHATTERBOX_KEY"
_CONNECT_S, _SILENCE_S = 5.0, 600.0


class Unanswered(ChatterboxError):
    """The service refused, broke off, or is not there; the message is its own where it sent one."""


class Server:
    """One service; its key comes from the environment, so that it is in no shell's history."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        if key := os.environ.get(KEY):
            self._session.headers["authorization"] = f"Bearer {key}"

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Raises Unanswered."""
        with closing(self._ask(method, path, **options)) as answer:
            try:
                return dict(answer.json())
            except (ValueError, TypeError) as error:
                raise Unanswered(f"{self._url} answers, but not as this service does. Is it the right port?") from error

    def parts(self, method: str, path: str, **options: Any) -> Iterator[bytes]:
        """An answer's bytes as they come. Raises Unanswered, also in the middle."""
        with closing(self._ask(method, path, stream=True, **options)) as answer:
            try:
                yield from answer.iter_content(chunk_size=None)
            except requests.RequestException as error:
                raise Unanswered(f"The service broke off: {error}") from error

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(method, self._url + path, timeout=(_CONNECT_S, _SILENCE_S), **options)
        except requests.RequestException as error:
            raise Unanswered(f"{self._url} does not answer: {error}") from error
        if not answer.ok:
            raise Unanswered(f"{self._url}: {_message(answer)}")
        return answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--server, from the environment where it is not given."""
    told = f"a running service, such as http://127.0.0.1:8000 (or ${URL}); its key is in ${KEY}"
    parser.add_argument("--server", default=os.environ.get(URL), help=told)


def needed(given: argparse.Namespace) -> Server:
    """Raises InvalidRequest where no service is named."""
    if not given.server:
        raise InvalidRequest(f"Name the service: --server http://127.0.0.1:8000, or ${URL}.", "server")
    return Server(given.server)


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"
