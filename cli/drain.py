"""drain: let a service's streams end and take no further ones, before it is stopped."""

import argparse
import logging
import os

from cli.server import Unanswered

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS", "auto"), help="of its Ray; auto: here")
    parser.add_argument("--application", default="chatterbox")
    parser.add_argument("--seconds", type=float, help="that streams have to end (default: the service's drain_s)")


def run(given: argparse.Namespace) -> None:
    """Returns when it has none left. New requests get 503 meanwhile, and 404 afterwards. Raises Unanswered."""
    import ray
    from ray import serve
    from ray.exceptions import AuthenticationError

    from deployments.ending import drain

    try:
        ray.init(address=given.address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise Unanswered(
            f"There is no Ray at {given.address} that lets us in: {error} Where it asks for its token, as that of "
            "`serve run` does, have it (RAY_AUTH_TOKEN, or ~/.ray/auth_token) and RAY_AUTH_MODE=token."
        ) from error
    if given.application not in serve.status().applications:
        raise Unanswered(f"No application is called {given.application!r}.")
    if left := drain(given.application, given.seconds):
        raise Unanswered(f"{left} streams are still running. It takes no new ones; ask again, or stop it.")
    logger.info("%s has no streams any more; it may be stopped.", given.application)
