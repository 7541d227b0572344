"""What a stage says as it is built."""

import logging

import pytest
import torch

from chatterbox_engine.config import EngineConfig
from chatterbox_engine.s3gen import model
from chatterbox_engine.stages import S3GenStage
from tests.families import small

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("attention", "free", "window", "warns"),
    [
        ("chunked", 10**6, None, True),
        ("chunked", 10**12, None, False),
        ("full", 10**6, None, False),
        ("chunked", 80 * 10**6, None, True),
        ("chunked", 80 * 10**6, 10, False),
    ],
)
def test_streams_that_may_keep_more_than_there_is_are_warned_of(
    attention: str,
    free: int,
    window: int | None,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A frame of this model: 2 steps, 4 layers, 2 rows, 2 heads of 32, twice, in 4 or 2 bytes."""
    monkeypatch.setattr(model, "free_bytes", lambda device: free)
    switches = {
        "flow_attention": attention, "context_window": window, "cfm_steps": 2, "max_streams": 32,
        "chunk_schedule": (10,), "precision": "fp32", "cpu_kernels": "plain",
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        config = EngineConfig.profile(s3gen=switches, watermark=False)
        stage = S3GenStage(small("chatterbox"), config, CPU)
    stage.engine.stop()
    room = stage.model.room(config.s3gen)
    assert (room is None) == (attention == "full")
    assert room is None or room.second_bytes == 50 * 2 * 4 * 2 * 2 * 32 * 2 * 4
    assert ("there is memory for what" in caplog.text) == warns
