"""python -m chatterbox_engine: a file with sound in it, or one line that says what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from chatterbox_engine.__main__ import main

ROOT = Path(__file__).parents[1]


def test_it_says_a_text_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    command = [sys.executable, "-m", "chatterbox_engine", "say", "Hello there.", "-o", str(path), "--model",
               "demo", "--device", "cpu", "--seed", "1"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert "demo on cpu" in run.stderr
    assert "synthetic speech" in run.stderr
    assert "real-time factor" in run.stderr
    samples, rate = soundfile.read(path)
    assert (rate, samples.ndim) == (24_000, 1)
    assert 0.5 < len(samples) / rate < 2.5
    assert samples.std() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Hello.", "--device", "abacus"], "no device 'abacus'"),
        (["Hello.", "--model", "/no/such/folder"], "no folder /no/such/folder"),
        (["Hello.", "--model", "dummy:parrot"], "no dummy:parrot"),
        (["Hello.", "--voice", "/no/such/voice.wav"], "/no/such/voice.wav cannot be read"),
        (["Hello.", "--voice", str(ROOT / "pyproject.toml")], "cannot be decoded as audio"),
        ([""], "The input is empty"),
        (["Hello.", "--seed", "-1"], "seed"),
        (["Hello.", "-o", "/no/such/folder/out.wav"], "/no/such/folder/out.wav cannot be written"),
        (["Hello.", "-o", "out.document"], "out.document cannot be written"),
        (["Hello.", "-o", "out"], "out cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = {"-o": "out.wav", "--model": "dummy:tiny", "--device": "cpu"}
    given = [part for item in defaults.items() if item[0] not in arguments for part in item]
    assert main(["say", *arguments, *given]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert captured.err.splitlines()[-1] == line
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_usage_errors_are_argparses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["say", "Hello."])
    assert "-o/--output" in capsys.readouterr().err
