"""What HTTP and Ray add, measured on the session's service. No time is asserted."""

import argparse
import statistics

import pytest

from benchmarks.overhead import SWITCHES, compare
from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS
from tests.service import Service


@pytest.mark.service
def test_the_same_streams_are_heard_both_ways(service: Service) -> None:
    tts = OptimizedChatterboxTTS.from_pretrained(
        "cpu", EngineConfig.profile("balanced", **SWITCHES), model="dummy:tiny"
    )
    options = argparse.Namespace(text="Hello there, how are you?", tokens=20, streams=2, repeats=2)
    rows, rounds = compare(tts, service.url, options)
    tts.close()
    service.wait_until_idle()
    assert [row["streams"] for row in rows] == [1, 2]
    for row, made in zip(rows, rounds.values(), strict=True):
        engine, http = made["engine"], made["http"]
        assert [one["audio_s"] for one in engine] == pytest.approx([one["audio_s"] for one in http])
        assert engine[0]["audio_s"] > 0.3 * row["streams"]
        added = [theirs["first_audio_s"] - own["first_audio_s"] for theirs, own in zip(http, engine, strict=True)]
        assert (row["added_s"].least, row["added_s"].greatest) == (min(added), max(added))
        rates = [own["rtf"] / theirs["rtf"] for theirs, own in zip(http, engine, strict=True)]
        assert row["rate_ratio"].median == pytest.approx(statistics.mean(rates))
