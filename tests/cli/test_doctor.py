"""python -m cli doctor, bench: true of the machine they run on."""

import pytest
import torch

from chatterbox_engine.accel import native
from cli.__main__ import main


def test_it_says_what_would_be_taken_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "demo", "--device", "cpu"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["device"] == "cpu (as configured)"
    assert said["model"].startswith("demo: A small voice")
    assert torch.__version__ in capsys.readouterr().out or torch.__version__ in " ".join(said.values())
    assert ("do not run" in " ".join(said.values())) == (native.kernels() is None)
    assert said["T3"].removeprefix("computes in ") in ("bfloat16", "float32")
    assert said["flow"].startswith("goes on from chunk to chunk, and keeps ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--model", "dummy:parrot"), "no dummy:parrot"), (("--device", "abacus"), "no device 'abacus'")],
)
def test_what_cannot_be_had_is_said(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["doctor", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "processor" in captured.out


def test_bench_measures_and_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "dummy:tiny", "--device", "cpu", "--repeats", "1", "--streams", "2"]
    assert main(["bench", *arguments]) == 0
    table = capsys.readouterr().out
    assert "2 at once, streamed" in table
    assert "real-time factor" in table
