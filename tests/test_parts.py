"""Modules of a package without the rest of it; in a process of its own, since pytest's has imported chatterbox."""

import subprocess
import sys

import pytest

from chatterbox_engine.parts import parts_of


def run(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_a_voice_is_encoded_without_t3_and_the_flow() -> None:
    """Their imports take longer than everything else that a first voice waits for."""
    told = run(
        "import sys, numpy\n"
        "from chatterbox_engine.checkpoint import find\n"
        "encoder = find('dummy:tiny', 'cpu').voice_encoder()\n"
        "voice = encoder.encode(numpy.sin(numpy.arange(24_000 * 4, dtype='f4')), 'a')\n"
        "slow = ('transformers', 'diffusers', 'torch._dynamo', 'chatterbox')\n"
        "print([name for name in slow if name in sys.modules])\n"
        "import chatterbox, chatterbox.models.s3gen\n"  # as if nothing had been
        "from chatterbox.models.voice_encoder import VoiceEncoder\n"
        "print(isinstance(encoder.speaker, VoiceEncoder), chatterbox.ChatterboxTTS.__name__)\n"
        "print(chatterbox.models.s3gen.S3Gen.__name__)\n"
    )
    assert told.splitlines()[-3:] == ["[]", "True ChatterboxTTS", "S3Token2Wav"]


def test_a_package_that_is_there_stays_and_one_that_is_not_is_named() -> None:
    import json

    with parts_of("json"):
        assert sys.modules["json"] is json
    with pytest.raises(ModuleNotFoundError, match="'no_such_package'"), parts_of("no_such_package"):
        raise AssertionError("not reached")
    assert "no_such_package" not in sys.modules


def test_what_fails_inside_leaves_nothing_behind() -> None:
    told = run(
        "import sys\n"
        "from chatterbox_engine.parts import parts_of\n"
        "try:\n"
        "    with parts_of('xml', 'xml.dom'):\n        import xml.dom.no_such_part\n"
        "except ModuleNotFoundError:\n    print('xml' in sys.modules, 'xml.dom' in sys.modules)\n"
        "import xml.dom\n"
        "print(xml.dom.Node.__name__)\n"  # of its __init__
    )
    assert told.split() == ["False", "False", "Node"]


def test_a_watermark_is_made_without_scipy() -> None:
    """Every start of a service waits for what S3Gen imports; only the detector needs the rest of Perth."""
    told = run(
        "import sys, numpy\n"
        "from chatterbox_engine.watermark import Watermarker\n"
        "marker = Watermarker()\n"
        "print([name for name in ('scipy', 'librosa', 'numba', 'perth') if name in sys.modules])\n"
        "marker.detect(numpy.ones(48_000, 'f4'))\n"
        "print('perth' in sys.modules)\n"
    )
    assert told.splitlines() == ["[]", "True"]
