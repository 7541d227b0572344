"""drain: let a service's streams end and take no further ones, before it is stopped."""

import argparse
import logging
import os
import time

from cli.server import Unanswered

logger = logging.getLogger(__name__)
_LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS", "auto"), help="of its Ray; auto: here")
    parser.add_argument("--application", default="chatterbox")
    parser.add_argument("--seconds", type=float, default=150.0, help="that streams have to end")


def run(given: argparse.Namespace) -> None:
    """Returns when it has none left. New requests get 404 meanwhile. Raises Unanswered."""
    import ray
    from ray import serve

    try:
        ray.init(address=given.address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError) as error:
        raise Unanswered(f"There is no Ray at {given.address}: {error}") from error
    end = time.monotonic() + given.seconds
    if given.application not in serve.status().applications:
        raise Unanswered(f"No application is called {given.application!r}.")
    serve.delete(given.application, _blocking=False)
    while given.application in serve.status().applications:
        if time.monotonic() > end:
            raise Unanswered(f"Streams are still running after {given.seconds:g} s.")
        time.sleep(_LOOK_S)
    logger.info("%s has no streams any more; it may be stopped.", given.application)
