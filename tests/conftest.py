"""What tests share: data that may be absent, and the reference's classes at a small depth."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from chatterbox_engine.accel import native
from tests.kernels import SETS, kernel_set
from tests.service import service  # noqa: F401  (a fixture)

os.environ.setdefault("TQDM_DISABLE", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # heeded as Triton is imported, by whomever
torch.set_num_threads(2)
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Inputs that the project's own files do not contain."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder ../shared/data is not here")
    return SHARED_DATA


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> Iterator[Any]:
    """See kernel_set."""
    with kernel_set(request.param):
        yield native.kernels()


@pytest.fixture(scope="session")
def reference_t3() -> Any:
    """chatterbox-tts's T3, its own class, at two layers and full width, with random weights."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    LLAMA_CONFIGS["two_layers"] = {**LLAMA_CONFIGS["Llama_520M"], "num_hidden_layers": 2}
    torch.manual_seed(0)
    settings = T3Config.english_only()
    settings.llama_config_name = "two_layers"
    return T3(settings).eval()


@pytest.fixture(scope="session")
def reference_voice() -> Any:
    """Conditioning of a made-up voice, as chatterbox-tts's T3 takes it."""
    generator = torch.Generator().manual_seed(1)
    return SimpleNamespace(
        speaker=torch.randn(1, 256, generator=generator),
        prompt=torch.randint(0, 6561, (1, 150), generator=generator),
    )


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference clip of 4 s: harmonics that come and go."""
    path = tmp_path_factory.mktemp("clip") / "anna.wav"
    t = np.arange(4 * 24_000) / 24_000
    sound = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 15))
    soundfile.write(path, 0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)), 24_000)
    return path


@pytest.fixture(scope="session")
def reference_tts(reference_t3: Any) -> Any:
    """A real ChatterboxTTS at full width and small depth, with random weights and a made-up voice."""
    from chatterbox.models.tokenizers import EnTokenizer
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox.tts import ChatterboxTTS

    from chatterbox_engine.checkpoint import find
    from chatterbox_engine.text import stand_in
    from tests.families import shallow_s3gen

    voice = find("dummy:tiny", "cpu").voice()
    assert voice is not None
    tokenizer = EnTokenizer(str(stand_in.ENGLISH))
    s3gen = shallow_s3gen(meanflow=False)
    return ChatterboxTTS(reference_t3, s3gen, VoiceEncoder().eval(), tokenizer, "cpu", voice.to_conditionals())
