"""The same numbers on a GPU as on a CPU."""

import numpy as np
import pytest
import torch

from chatterbox_engine import EngineConfig, OptimizedChatterboxTTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]
TEXT = "The same words on another device."
FP32 = {"t3": {"precision": "fp32"}}


@pytest.fixture(scope="module")
def pair() -> tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS]:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    config = EngineConfig.profile("balanced", watermark=False, **FP32)
    return tuple(OptimizedChatterboxTTS.from_pretrained(d, config, model="demo") for d in ("cpu", "cuda"))  # type: ignore[return-value]


def test_tokens_and_audio_agree(pair: tuple[OptimizedChatterboxTTS, OptimizedChatterboxTTS]) -> None:
    tokens = [tts.speech_tokens(TEXT, seed=3) for tts in pair]
    assert torch.equal(*tokens)
    cpu, cuda = (tts.generate(TEXT, seed=3).numpy() for tts in pair)
    assert np.abs(cpu - cuda).max() <= 1e-3


def test_bf16_speaks_without_nan() -> None:
    tts = OptimizedChatterboxTTS.from_pretrained("cuda", model="demo")
    audio = tts.generate(TEXT, seed=3)
    assert torch.isfinite(audio).all()
    assert audio.std() > 1e-3
