"""S3Gen with captured calls says what it says without, whatever comes before and beside."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from chatterbox_engine.config import EngineConfig, S3GenSwitches
from chatterbox_engine.s3gen import model as module
from chatterbox_engine.s3gen.engine import S3GenEngine
from chatterbox_engine.s3gen.model import S3GenModel
from chatterbox_engine.stages import S3GenStage
from chatterbox_engine.weights import RandomWeights
from tests.families import small
from tests.rerun import CPU, Rerun
from tests.s3gen.test_engine import SPEC, say, spoken, tokens, voice

TOLERANCE = 1e-4
PLAIN = S3GenSwitches(max_streams=8, precision="fp32", cpu_kernels="plain")


def started(meanflow: bool) -> S3GenEngine:
    spec = SPEC.model_copy(update={"meanflow": meanflow})
    engine = S3GenEngine(S3GenModel(spec, RandomWeights(0), torch.float32, CPU, PLAIN), PLAIN, None)
    engine.start()
    return engine


@pytest.fixture(scope="module", params=[False, True], ids=["guidance", "mean flow"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[S3GenEngine, S3GenEngine]]:
    """With what stands for graphs, and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Graphs", Rerun)
        captured = started(request.param)
    eager = started(request.param)
    yield captured, eager
    for engine in (captured, eager):
        engine.stop()


def test_streams_of_every_length(pair: tuple[S3GenEngine, S3GenEngine]) -> None:
    captured, eager = pair
    graphs = captured._model.graphs
    assert isinstance(graphs, Rerun)
    before = graphs.replays
    for round_ in range(3):
        for count in (31, 40, 8):
            given = (count, (10, 20), round_)
            assert np.abs(say(captured, *given) - say(eager, *given)).max() <= TOLERANCE
    assert graphs.replays > before
    assert not eager._model.graphs.enabled


def test_streams_beside_each_other(pair: tuple[S3GenEngine, S3GenEngine]) -> None:
    """Batches of any size, ragged at the ends; chunks of several shapes through the vocoder."""
    captured, eager = pair
    lengths = (25, 40, 33, 12)
    for _ in range(2):
        streams = [captured.open(voice(), schedule=(10, 15), paced=False) for _ in lengths]
        for seed, (stream, count) in enumerate(zip(streams, lengths, strict=True)):
            stream.begin_piece(seed, 0.0)
            stream.feed(tokens(count), final=True)
            stream.finish()
        for seed, (stream, count) in enumerate(zip(streams, lengths, strict=True)):
            assert np.abs(spoken(stream) - say(eager, count, (10, 15), seed)).max() <= TOLERANCE


def test_a_full_warm_up_captures_what_the_schedule_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Graphs", Rerun)
    checkpoint = small("chatterbox")
    own = {"max_streams": 2, "chunk_schedule": (4, 8), "cfm_steps": 2, "cpu_kernels": "plain", "precision": "fp32"}
    config = EngineConfig.profile("balanced", watermark=False, warmup="full", s3gen=own)
    stage = S3GenStage(checkpoint, config, CPU)
    speaker = checkpoint.voice()
    assert speaker is not None
    stage.warm_up(speaker)
    graphs = stage.model.graphs
    assert isinstance(graphs, Rerun)
    captured, replays = len(graphs), graphs.replays
    for _ in range(2):
        stream = stage.open(speaker, paced=False)
        stream.begin_piece(1, 0.0)
        stream.feed(tokens(16), final=True)
        stream.finish()
        assert len(spoken(stream)) == 16 * 960
    stage.engine.stop()
    assert (len(graphs), graphs.replays > replays) == (captured, True)


def test_a_full_warm_up_takes_as_many_streams_as_find_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Graphs", Rerun)
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    checkpoint = small("chatterbox")
    own = {"max_streams": 2, "chunk_schedule": (4,), "cfm_steps": 2, "cpu_kernels": "plain", "precision": "fp32",
           "flow_attention": "chunked"}  # fmt: skip
    stage = S3GenStage(checkpoint, EngineConfig.profile(watermark=False, warmup="full", s3gen=own), CPU)
    speaker = checkpoint.voice()
    assert speaker is not None
    stage.warm_up(speaker)
    assert stage.engine.running == 0
    assert stage.engine.samples > 0
    stage.engine.stop()


def test_moved_weights_are_read_where_they_went(pair: tuple[S3GenEngine, S3GenEngine]) -> None:
    captured, _ = pair
    say(captured, 20, (10,))
    captured._model.to(CPU)
    assert not len(captured._model.graphs)
    say(captured, 20, (10,))
