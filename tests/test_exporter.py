"""Metrics of an engine without Ray, by the specification's names, read over HTTP as Prometheus does."""

import socket
import time
from collections.abc import Iterator

import pytest
import requests
import torch
from prometheus_client.parser import text_string_to_metric_families

from chatterbox_engine import OptimizedChatterboxTTS
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.metrics import BY_NAME, PREFIX, SPECIFICATION
from chatterbox_engine.types import SAMPLE_RATE

_OF_THE_SERVICE = {
    "t3_reopened", "s3gen_reopened", "voices_cached", "cold_starts", "cold_start_seconds", "streams_live", "errors",
    "jobs_queued", "job_pieces", "build_info",
}  # fmt: skip
_OF_A_GPU = {metric.name for metric in SPECIFICATION if metric.name.startswith(("vram_", "gpu_"))}


@pytest.fixture(scope="module")
def tts() -> Iterator[OptimizedChatterboxTTS]:
    tts = OptimizedChatterboxTTS.from_pretrained("cpu", model="dummy:tiny", metrics_port=0)
    yield tts
    tts.close()


def samples(tts: OptimizedChatterboxTTS) -> dict[str, float]:
    assert tts._exporter is not None
    page = requests.get(f"http://127.0.0.1:{tts._exporter.port}/metrics", timeout=10).text
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {"/".join((sample.name, *sample.labels.values())): sample.value for sample in found}


def test_what_was_spoken_is_counted(tts: OptimizedChatterboxTTS) -> None:
    before = samples(tts)
    audio = tts.generate("Hello there.", seed=1)
    stream = tts.generate_stream("This one is left before its end, since nobody listens.", seed=1)
    next(stream)
    stream.close()
    with pytest.raises(InvalidRequest):
        tts.generate("")
    end = time.monotonic() + 10
    while (after := samples(tts))[f"{PREFIX}t3_streams"] and time.monotonic() < end:
        time.sleep(0.05)  # T3 lets go of what was left between two of its steps

    def grown(name: str) -> float:
        return after[PREFIX + name] - before[PREFIX + name]

    assert grown("s3gen_audio_seconds_total") >= audio.shape[1] / SAMPLE_RATE
    assert grown("t3_tokens_total") >= 20
    assert (grown("requests_total/ok"), grown("requests_total/cancelled")) == (1, 1)
    assert grown("first_audio_seconds_count") == 2
    assert grown("t3_admitted_total") == grown("s3gen_begun_total") == 2
    assert grown("t3_busy_seconds_total") > 0
    assert after[f"{PREFIX}t3_streams"] == 0


def test_every_metric_is_there_that_can_be(tts: OptimizedChatterboxTTS) -> None:
    names = {name.partition("/")[0] for name in samples(tts)}
    missing = set() if torch.cuda.is_available() else _OF_A_GPU
    for metric in SPECIFICATION:
        own = metric.sample + ("_bucket" if metric.kind == "histogram" else "")
        assert (own in names) == (metric.name not in _OF_THE_SERVICE | missing), metric.name
    known = {name.removesuffix("_total").removesuffix("_bucket").removeprefix(PREFIX) for name in names}
    assert {name for name in known if not name.endswith(("_created", "_count", "_sum"))} <= BY_NAME.keys()


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequest, match="cannot be served") as refused:
            OptimizedChatterboxTTS.from_pretrained("cpu", model="dummy:tiny", metrics_port=port)
    assert refused.value.param == "metrics_port"
