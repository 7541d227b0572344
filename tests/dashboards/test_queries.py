"""Queries are made from the specification's names and kinds alone."""

import pytest

from dashboards.queries import highest, mean, quantile, rate, ratio, total


def test_expressions() -> None:
    assert total("t3_streams").expr == "sum(ray_chatterbox_t3_streams)"
    assert mean("t3_batch_size").expr == "avg(ray_chatterbox_t3_batch_size)"
    assert highest("vram_peak_bytes").expr == "max by (stage) (ray_chatterbox_vram_peak_bytes)"
    assert rate("requests").expr == "sum by (outcome) (rate(ray_chatterbox_requests_total[$__rate_interval]))"
    assert ratio("t3_busy_seconds", "t3_audio_seconds", "rtf").expr == (
        "sum(rate(ray_chatterbox_t3_busy_seconds_total[$__rate_interval]))"
        " / sum(rate(ray_chatterbox_t3_audio_seconds_total[$__rate_interval]))"
    )
    assert quantile(0.95, "first_audio_seconds").expr == (
        "histogram_quantile(0.95, sum by (le) (rate(ray_chatterbox_first_audio_seconds_bucket[$__rate_interval])))"
    )


def test_units_follow_from_the_specification() -> None:
    assert highest("vram_peak_bytes").unit == "bytes"
    assert quantile(0.5, "first_audio_seconds").unit == "s"
    assert rate("requests").unit == "ops"
    assert rate("t3_busy_seconds").unit == "percentunit"


def test_legends() -> None:
    assert quantile(0.999, "first_audio_seconds").legend == "p99.9"
    assert rate("requests").legend == "{{outcome}}"


def test_a_misspelt_metric_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="t3_stream"):
        total("t3_stream")
    with pytest.raises(KeyError, match="t3_bussy_seconds"):
        ratio("t3_bussy_seconds", "t3_audio_seconds", "rtf")


def test_a_metric_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="t3_streams is a gauge, not a counter"):
        rate("t3_streams")
    with pytest.raises(ValueError, match="requests is a counter, not a gauge"):
        total("requests")
    with pytest.raises(ValueError, match="requests is a counter, not a histogram"):
        quantile(0.5, "requests")
