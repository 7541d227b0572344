"""At full size, where size is the point: exactness against chatterbox-tts, and what loading takes."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from chatterbox_engine.config import T3Switches
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import StateDictWeights
from tests.t3.test_engine import LONG, SHORT, drain, reference_tokens

pytestmark = pytest.mark.slow


def test_tokens_of_all_thirty_layers_equal_the_reference(reference_voice: Any) -> None:
    from chatterbox.models.t3 import T3

    torch.manual_seed(0)
    reference = T3().eval()
    voice = T3Voice("v", reference_voice.speaker, reference_voice.prompt)
    weights = StateDictWeights(reference.state_dict(), "the reference")
    model = T3Model.from_weights(T3Spec(), weights, 400, torch.float32, torch.device("cpu"))
    engine = T3Engine(model, T3Switches(max_positions=400, exact=True))
    engine.start()
    try:
        cases = [(SHORT, 0, 0.5), (LONG, 1, 0.3), (SHORT, 2, 1.0), (LONG, 3, 0.5)]
        params = [SamplingParams(seed=seed, cfg_weight=weight, max_new_tokens=24) for _, seed, weight in cases]
        expected = [reference_tokens(reference, voice, c[0], p) for c, p in zip(cases, params, strict=True)]
        streams = [engine.submit(c[0], voice, p) for c, p in zip(cases, params, strict=True)]
        assert [drain(stream) for stream in streams] == expected
    finally:
        engine.stop()


_LOAD = """
import json, re, time
from pathlib import Path
begin = time.monotonic()
from chatterbox_engine.checkpoint import find
from chatterbox_engine.config import EngineConfig
from chatterbox_engine.stages import S3GenStage, T3Stage
import torch
checkpoint, config, cpu = find("dummy:chatterbox", "cpu"), EngineConfig.profile(), torch.device("cpu")
stages = T3Stage(checkpoint, config, cpu), S3GenStage(checkpoint, config, cpu)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss remembers the parent's
print(json.dumps({"seconds": time.monotonic() - begin, "bytes": 1024 * int(peak[1])}))
"""


def test_the_dummy_loads_in_30_s_and_4_gb() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _LOAD], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    print(told)
    assert told["seconds"] < 30
    assert told["bytes"] < 4e9
