"""`python -m dashboards generate`, `push` and `top`."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from dashboards import rules, top
from dashboards.boards import BOARDS, render
from dashboards.grafana import Grafana, PushFailed, data_source, payload

GENERATED = Path(__file__).parent / "generated"
RULES_YAML = Path(__file__).parent / "rules.yaml"
MANIFEST = Path(__file__).parents[1] / "deploy" / "kubernetes" / "base" / "rules.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "generate", help=f"write {GENERATED.name}/*.json, {RULES_YAML.name} and deploy's {MANIFEST.name}"
    )
    push = commands.add_parser("push", help="send the dashboards to a Grafana")
    push.add_argument("--url", required=True, help="Grafana's address, such as https://grafana.example.com")
    push.add_argument("--token-env", default="GRAFANA_TOKEN", help="environment variable that holds the token")
    push.add_argument("--folder", default="Chatterbox", help="title of the folder, made where there is none")
    push.add_argument("--prometheus", metavar="URL", help="make this Prometheus a data source, as Grafana reaches it")
    push.add_argument("--dry-run", action="store_true", help="print what would be sent and send nothing")
    watch = commands.add_parser("top", help="show the metrics of a running service in this terminal")
    watch.add_argument("--metrics", action="append", default=[], metavar="HOST:PORT", help="of one node of Ray's")
    watch.add_argument("--period", type=float, default=2.0, help="seconds between two looks")
    watch.add_argument("--times", type=int, help="so many looks, and not until it is interrupted")
    options = parser.parse_args(arguments)
    if options.command == "generate":
        made = {GENERATED / f"{name}.json": render(name) for name in BOARDS}
        for path, text in (made | {RULES_YAML: rules.render(), MANIFEST: rules.manifest()}).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        return 0
    if options.command == "top":
        return _top(options.metrics, options.period, options.times)
    return _push(options.url, options.token_env, options.folder, options.prometheus, options.dry_run)


def _top(metrics: list[str], period_s: float, times: int | None) -> int:
    try:
        with contextlib.suppress(KeyboardInterrupt):
            top.run(metrics, period_s, times)
    except top.NoMetrics as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _push(url: str, token_env: str, folder: str, prometheus: str | None, dry_run: bool) -> int:
    dashboards = [json.loads(render(name)) for name in BOARDS]
    if dry_run:
        print(f"would send to {url}, folder {folder!r}:", file=sys.stderr)
        sources = [data_source(prometheus)] if prometheus else []
        sent = [payload(dashboard, f"<uid of {folder!r}>") for dashboard in dashboards]
        print(json.dumps({"sources": sources, "dashboards": sent}, indent=2))
        return 0
    token = os.environ.get(token_env)
    if not token:
        print(f"The environment variable {token_env} holds no token.", file=sys.stderr)
        return 1
    try:
        grafana = Grafana(url, token)
        if prometheus:
            print("data source: made" if grafana.add_source(prometheus) else "data source: there already")
        for sent_url in grafana.push(dashboards, folder):
            print(f"sent: {sent_url}")
    except PushFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
