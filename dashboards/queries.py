"""PromQL over the metrics of chatterbox_engine.metrics.SPECIFICATION, with the unit of what comes out.

Names come from the specification alone: one that is not in it is a KeyError while the dashboard is built, and one of
the wrong kind (the rate of a gauge) a ValueError.
"""

from dataclasses import dataclass
from typing import Literal

from chatterbox_engine.metrics import SPECIFICATION, Metric

_METRICS = {metric.name: metric for metric in SPECIFICATION}
_WINDOW = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression: what it reads, and what unit comes out."""

    expr: str
    unit: str
    metrics: tuple[Metric, ...]
    legend: str


def total(name: str) -> Query:
    """A gauge, summed over replicas."""
    return _gauge("sum", name)


def mean(name: str) -> Query:
    """A gauge, averaged over replicas."""
    return _gauge("avg", name)


def highest(name: str) -> Query:
    """A gauge of the replica where it is highest."""
    return _gauge("max", name)


def each(name: str) -> Query:
    """A gauge of the emptiest replica, by its label."""
    return _gauge("min", name)


def rate(name: str, unit: str | None = None) -> Query:
    """Events a second of a counter, all replicas together."""
    metric = _metric(name, "counter")
    unit = unit or {"short": "ops", "s": "percentunit"}[metric.unit]  # seconds a second are a share of the time
    return Query(f"sum{_by(metric)}({_rate(metric.exported)})", unit, (metric,), _legend(metric))


def ratio(over: str, under: str, legend: str, unit: str = "short") -> Query:
    """Growth of one counter over growth of another.

    Ratios come from counters: Ray's exporter makes a histogram's `_sum` from bucket midpoints, so that an average
    from one is wrong.
    """
    metrics = (_metric(over, "counter"), _metric(under, "counter"))
    sums = [f"sum({_rate(metric.exported)})" for metric in metrics]
    return Query(" / ".join(sums), unit, metrics, legend)


def only(name: str, value: str) -> Query:
    """Events a second of a labelled counter, of one of the label's values."""
    metric = _metric(name, "counter")
    (label,) = metric.labels
    return Query(f'sum(rate({metric.exported}{{{label}="{value}"}}[{_WINDOW}]))', "ops", (metric,), value)


def share(name: str, value: str) -> Query:
    """What part of a labelled counter's growth is that of one label's value."""
    one = only(name, value)
    (metric,) = one.metrics
    return Query(f"{one.expr} / sum({_rate(metric.exported)})", "percentunit", one.metrics, value)


def busiest(name: str) -> Query:
    """A counter of seconds, as the share of its time that the busiest replica worked."""
    metric = _metric(name, "counter")
    return Query(f"max({_rate(metric.exported)})", "percentunit", (metric,), metric.name)


def over(query: Query, window: str) -> str:
    """Its expression over a window of its own, where there is no panel to have one."""
    return query.expr.replace(_WINDOW, window)


def quantile(q: float, name: str) -> Query:
    """A quantile of a histogram, all replicas together."""
    metric = _metric(name, "histogram")
    expr = f"histogram_quantile({q:g}, sum by (le) ({_rate(metric.exported + '_bucket')}))"
    return Query(expr, metric.unit, (metric,), f"p{100 * q:g}")


def _metric(name: str, kind: Literal["counter", "gauge", "histogram"]) -> Metric:
    metric = _METRICS[name]
    if metric.kind != kind:
        raise ValueError(f"{name} is a {metric.kind}, not a {kind}.")
    return metric


def _gauge(how: str, name: str) -> Query:
    metric = _metric(name, "gauge")
    return Query(f"{how}{_by(metric)}({metric.exported})", metric.unit, (metric,), _legend(metric))


def _rate(exported: str) -> str:
    return f"rate({exported}[{_WINDOW}])"


def _by(metric: Metric) -> str:
    return f" by ({', '.join(metric.labels)}) " if metric.labels else ""


def _legend(metric: Metric) -> str:
    """The labels' values, which Grafana fills in; the name where there are none."""
    return " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.name
