"""python -m cli say: a file with sound in it, or one line that says what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli.__main__ import main
from cli.player import PLAYERS

ROOT = Path(__file__).parents[2]


def test_it_says_a_text_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    command = [sys.executable, "-m", "cli", "say", "Hello there.", "-o", str(path), "--model",
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


def test_without_a_file_it_goes_to_the_loudspeaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = tmp_path / "heard"
    program = tmp_path / "aplay"
    program.write_text(f"#!/bin/sh\necho $@ > {heard}.said\ncat > {heard}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("cli.player.PLAYERS", [player for player in PLAYERS if player[0] == "aplay"])
    given = ["--model", "dummy:tiny", "--device", "cpu", "--seed", "1"]
    assert main(["say", "Hello there.", *given]) == 0
    assert main(["say", "Hello there.", *given, "-o", str(tmp_path / "out.wav")]) == 0
    samples, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    played = np.frombuffer(heard.read_bytes(), np.int16)
    assert len(played) == len(samples)
    assert np.abs(played.astype(int) - samples).max() <= 1
    assert "-r 24000" in Path(f"{heard}.said").read_text()


def test_without_a_file_or_a_player_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.player.PLAYERS", [("no-such-player",)])
    assert main(["say", "Hello.", "--model", "dummy:tiny", "--device", "cpu"]) == 1
    assert "name a file with -o" in capsys.readouterr().err


def test_usage_errors_are_argparses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["say"])
    assert "text" in capsys.readouterr().err
