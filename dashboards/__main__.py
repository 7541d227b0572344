"""`python -m dashboards generate`, `push` and `top`."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from dashboards import rules, top
from dashboards.grafana import Grafana, PushFailed, payload
from dashboards.overview import render

OVERVIEW_JSON = Path(__file__).parent / "overview.json"
RULES_YAML = Path(__file__).parent / "rules.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help=f"write {OVERVIEW_JSON.name} and {RULES_YAML.name}")
    push = commands.add_parser("push", help="send the dashboard to a Grafana")
    push.add_argument("--url", required=True, help="Grafana's address, such as https://grafana.example.com")
    push.add_argument("--token-env", default="GRAFANA_TOKEN", help="environment variable that holds the token")
    push.add_argument("--folder", default="Chatterbox", help="title of the folder, made where there is none")
    push.add_argument("--dry-run", action="store_true", help="print what would be sent and send nothing")
    watch = commands.add_parser("top", help="show the metrics of a running service in this terminal")
    watch.add_argument("--metrics", action="append", default=[], metavar="HOST:PORT", help="of one node of Ray's")
    watch.add_argument("--period", type=float, default=2.0, help="seconds between two looks")
    watch.add_argument("--times", type=int, help="so many looks, and not until it is interrupted")
    options = parser.parse_args(arguments)
    if options.command == "generate":
        for path, text in ((OVERVIEW_JSON, render()), (RULES_YAML, rules.render())):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        return 0
    if options.command == "top":
        return _top(options.metrics, options.period, options.times)
    return _push(options.url, options.token_env, options.folder, options.dry_run)


def _top(metrics: list[str], period_s: float, times: int | None) -> int:
    try:
        with contextlib.suppress(KeyboardInterrupt):
            top.run(metrics, period_s, times)
    except top.NoMetrics as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _push(url: str, token_env: str, folder: str, dry_run: bool) -> int:
    dashboard = json.loads(render())
    if dry_run:
        print(f"would send to {url}, folder {folder!r}:", file=sys.stderr)
        print(json.dumps(payload(dashboard, f"<uid of {folder!r}>"), indent=2))
        return 0
    token = os.environ.get(token_env)
    if not token:
        print(f"The environment variable {token_env} holds no token.", file=sys.stderr)
        return 1
    try:
        print(f"sent: {Grafana(url, token).push(dashboard, folder)}")
    except PushFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
