"""Loads that change, for `locust -f loadtest/locustfile.py,loadtest/shapes.py --shape ramp`."""

from typing import Any

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser

from loadtest.stages import SHAPES, stages


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--shape", default="steady", choices=SHAPES)
    parser.add_argument("--most", type=int, default=8, help="users: of a steady load, at a ramp's end, in a spike")
    parser.add_argument("--steps", type=int, default=8, help="of a ramp")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")


class Shape(LoadTestShape):
    """Runs through the stages of the shape that is asked for."""

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many of them may come or go in a second; None at the end."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        now = self.get_run_time()
        for end, users in stages(options.shape, options.most, options.steps, options.seconds):
            if now < end:
                return users, max(1.0, users)
        return None
