"""T3 with captured steps draws the tokens that it draws without: steps filled up with nobody, rows that come and go."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from chatterbox_engine.config import T3Switches
from chatterbox_engine.t3 import runner
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import RandomWeights
from tests.families import small
from tests.rerun import CPU, Rerun

REQUESTS = [
    (12, SamplingParams(seed=1, max_new_tokens=60)),
    (30, SamplingParams(seed=2, cfg_weight=0.0, max_new_tokens=60)),
    (7, SamplingParams(seed=3, top_p=0.9, max_new_tokens=60)),
    (90, SamplingParams(seed=4, max_new_tokens=60)),
    (20, SamplingParams(seed=5, cfg_weight=0.2, max_new_tokens=60)),
]
"""Tokens wanted, and how."""


def started(family: str) -> tuple[T3Engine, T3Voice]:
    spec = small(family).spec.t3
    model = T3Model.from_weights(spec, RandomWeights(0), 300, torch.float32, CPU, "none", "plain")
    guard = "on" if spec.alignment_guard else "auto"
    engine = T3Engine(model, T3Switches(max_streams=4, max_positions=300, alignment_guard=guard))  # type: ignore[arg-type]
    engine.start()
    return engine, T3Voice("v", torch.ones(1, spec.speaker_width), torch.arange(40)[None])


@pytest.fixture(scope="module", params=["chatterbox", "chatterbox-multilingual", "chatterbox-turbo"])
def pair(request: pytest.FixtureRequest) -> Iterator[list[tuple[T3Engine, T3Voice]]]:
    """With what stands for graphs, and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Graphs", Rerun)
        captured = started(request.param)
    engines = [captured, started(request.param)]
    yield engines
    for engine, _ in engines:
        engine.stop()


def drawn(
    engine: T3Engine, voice: T3Voice, requests: Sequence[tuple[int, SamplingParams]] = REQUESTS
) -> list[list[int]]:
    streams = [engine.submit(list(range(1, 2 * wanted)), voice, own, wanted) for wanted, own in requests]
    found = []
    for stream, (wanted, _) in zip(streams, requests, strict=True):
        tokens: list[int] = []
        while len(tokens) < wanted:
            read, final = stream.read(wanted, timeout=120)
            tokens += read
            if final:
                break
        found.append(tokens)
    return found


def test_every_stream_has_its_own_tokens(pair: list[tuple[T3Engine, T3Voice]]) -> None:
    (captured, voice), (eager, _) = pair
    graphs = captured.runner.graphs
    assert isinstance(graphs, Rerun)
    made = drawn(captured, voice)
    assert graphs.replays > 50
    assert made == drawn(eager, voice)
    assert {len(tokens) for tokens in made} > {7, 12}
