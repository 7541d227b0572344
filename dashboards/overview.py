"""The overview: what listeners get, and what each stage and device does for it."""

import json

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import Dashboard, DataSourceRef, Threshold, ThresholdsMode

from dashboards.queries import Query, highest, mean, quantile, rate, ratio, total

UID = "chatterbox-overview"
"""The same in every Grafana, so that sending the dashboard again replaces it."""
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_WIDTH = 24
"""Grafana's columns."""


def overview() -> Dashboard:
    """The dashboard as Grafana knows it."""
    board = (
        builders.Dashboard("Chatterbox overview")
        .uid(UID)
        .tags(["chatterbox"])
        .time("now-1h", "now")
        .refresh("10s")
        .editable()
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    _row(
        board,
        "Listeners",
        _panel("Time to first audio", *(quantile(q, "first_audio_seconds") for q in (0.5, 0.95, 0.99))),
        _panel("Requests by outcome", rate("requests")),
        _panel("Stalls", rate("s3gen_stalls")),
        _panel("Silence within utterances", rate("s3gen_stalled_seconds"), note="Of 1 s for each listener."),
        _panel("Streams live", total("streams_live")),
    )
    _row(
        board,
        "T3",
        _real_time_factor("t3"),
        _panel("Streams", total("t3_streams")),
        _panel("Batch size", mean("t3_batch_size")),
        _panel("Queue depth", total("t3_queue_depth")),
        _panel("Streams whose replica broke off, and that went on", rate("t3_reopened")),
    )
    _row(
        board,
        "S3Gen",
        _real_time_factor("s3gen"),
        _panel("Streams", total("s3gen_streams")),
        _panel("Batch size", mean("s3gen_batch_size")),
        _panel(
            "Watermark's share of busy time",
            ratio("s3gen_watermark_seconds", "s3gen_busy_seconds", "watermark", "percentunit"),
        ),
    )
    _row(
        board,
        "Jobs",
        _panel("Jobs queued", total("jobs_queued")),
        _panel("Pieces spoken", rate("job_pieces")),
    )
    _row(
        board,
        "Devices",
        *(
            _panel(f"VRAM {what}", highest(f"vram_{what}_bytes"), note="Of the stage's fullest replica.")
            for what in ("allocated", "reserved", "peak")
        ),
    )
    built = board.build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number  # links to a panel name it by this
    return built


def render() -> str:
    """The dashboard's JSON, as it is committed."""
    return json.dumps(overview(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _row(board: builders.Dashboard, title: str, *panels: timeseries.Panel) -> None:
    """A row whose panels share the width."""
    board.with_row(builders.Row(title))
    for panel in panels:
        board.with_panel(panel.height(_HEIGHT).span(_WIDTH // len(panels)))


def _panel(title: str, *queries: Query, note: str = "") -> timeseries.Panel:
    """Lines of one unit; the description is the metrics' own help."""
    (unit,) = {query.unit for query in queries}
    texts = dict.fromkeys(metric.help for query in queries for metric in query.metrics)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(" ".join([*texts, note]).strip())
        .unit(unit)
        .min(0)  # nothing here can be negative, and a line's height should be its size
        .datasource(_SOURCE)
    )
    for query, ref in zip(queries, "ABCDEFGH", strict=False):
        panel.with_target(
            prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).range().datasource(_SOURCE)
        )
    return panel


def _real_time_factor(stage: str) -> timeseries.Panel:
    """Busy seconds for a second of audio, with a line at 1: above it a replica falls behind its listeners."""
    steps = [Threshold(0.0, "green"), Threshold(1.0, "red")]  # Grafana's schema refuses the SDK's None for "from -inf"
    style = common_builders.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return (
        _panel(
            "Real-time factor",
            ratio(f"{stage}_busy_seconds", f"{stage}_audio_seconds", "real-time factor"),
            note="The first over the second; lower is better.",
        )
        .thresholds(builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .thresholds_style(style)
    )
