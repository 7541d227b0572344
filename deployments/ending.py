"""The end of a service: nobody new, those under way to their end, and only then nothing."""

import contextlib
import logging
import time

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

logger = logging.getLogger("ray.serve")

_LOOK_S = 0.5
_ANSWERS_S = 5.0


def drain(application: str, seconds: float | None = None) -> int:
    """Close the application's gate, wait until its streams have ended, and delete it. Returns how many had not ended
    within `seconds` (None: the settings' `drain_s`); then it is not deleted.

    Whoever comes meanwhile gets 503 and retry-after, and /health is 503. Blocks. Raises RayServeException where there
    is no such application, or where it never came up.
    """
    begin, live = time.monotonic(), 0
    ingress = serve.get_app_handle(application)
    with contextlib.suppress(RayError, TimeoutError):  # the ingress is gone, and all streams with it
        while True:
            live, allowed_s = ingress.leave.remote().result(timeout_s=_ANSWERS_S)
            if not live or time.monotonic() > begin + (allowed_s if seconds is None else seconds):
                break
            time.sleep(_LOOK_S)
    if not live:
        with contextlib.suppress(TimeoutError):
            serve.delete(application)  # it waits until the ingress has sent what it has
    return live


def drain_all() -> None:
    """Each application of this Ray; says in the log what it does."""
    for application in serve.status().applications:
        logger.info("%s lets its streams end, and takes no new ones.", application)
        try:
            live = drain(application)
        except RayServeException as error:
            logger.info("%s had none: %s", application, error)
            continue
        logger.log(logging.WARNING if live else logging.INFO, "%s ends with %d streams.", application, live)
