"""Panels of dashboards, typed by Grafana's SDK: units and descriptions are the metrics' own."""

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

from dashboards.queries import Query, ratio

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_WIDTH = 24
"""Grafana's columns."""

Row = tuple[str, tuple[timeseries.Panel, ...]]
"""A title, and panels that share the width."""


def board(uid: str, title: str, *rows: Row) -> Dashboard:
    """A dashboard as Grafana knows it. Its uid is the same in every Grafana, so that sending it again replaces it."""
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .tags(["chatterbox"])
        .time("now-1h", "now")
        .refresh("10s")
        .editable()
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .link(
            builders.DashboardLink("Chatterbox")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["chatterbox"])
            .as_dropdown(as_dropdown=True)
            .keep_time(keep_time=True)
        )
    )
    for name, panels in rows:
        made.with_row(builders.Row(name))
        for panel in panels:
            made.with_panel(panel.height(_HEIGHT).span(_WIDTH // len(panels)))
    built = made.build()
    for number, own in enumerate(built.panels or [], 1):
        own.id_val = number  # links to a panel name it by this
    return built


def row(title: str, *panels: timeseries.Panel) -> Row:
    return title, panels


def panel(title: str, *queries: Query, note: str = "") -> timeseries.Panel:
    """Lines of one unit; the description is the metrics' own help."""
    (unit,) = {query.unit for query in queries}
    texts = dict.fromkeys(metric.help for query in queries for metric in query.metrics)
    made = (
        timeseries.Panel()
        .title(title)
        .description(" ".join([*texts, note]).strip())
        .unit(unit)
        .min(0)  # nothing here can be negative, and a line's height should be its size
        .datasource(_SOURCE)
    )
    for query, ref in zip(queries, "ABCDEFGH", strict=False):
        made.with_target(
            prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).range().datasource(_SOURCE)
        )
    return made


def real_time_factor(stage: str) -> timeseries.Panel:
    """Busy seconds for a second of audio, with a line at 1: above it a replica falls behind its listeners."""
    steps = [Threshold(0.0, "green"), Threshold(1.0, "red")]  # Grafana's schema refuses the SDK's None for "from -inf"
    style = common_builders.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return (
        panel(
            "Real-time factor",
            ratio(f"{stage}_busy_seconds", f"{stage}_audio_seconds", "real-time factor"),
            note="The first over the second; lower is better.",
        )
        .thresholds(builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .thresholds_style(style)
    )
