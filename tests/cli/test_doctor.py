"""python -m cli doctor, bench: true of the machine they run on."""

from pathlib import Path

import pytest
import torch
import yaml

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


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_it_says_what_s3gen_computes_in_and_keeps(
    kernels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {"model": "demo", "device": "cpu", "switches": {"s3gen": {"cpu_kernels": kernels}}}
    assert main(["doctor", str(written(tmp_path, args))]) == 0
    said = capsys.readouterr().out
    short = kernels == "auto" and native.multiplies_rows() and not native.has_tiles()
    assert ("whole numbers of 16 bits" in said) == short
    assert ("keeps 4.1 MB of each second" in said) == (not short and not native.has_tiles())


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


def test_a_configuration_is_looked_at_before_it_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(Path(__file__).parents[2] / "serve_config.yaml"), "--model", "demo"]) == 0
    assert "8 in T3, 16 in S3Gen" in capsys.readouterr().out
    voices = tmp_path / "voices"
    args = {"model": "dummy:tiny", "voices_folder": str(voices), "switches": {"s3gen": {"max_streams": 3}}}
    path = written(tmp_path, args)
    assert main(["doctor", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"{voices}, can be written" in said
    assert "8 in T3, 3 in S3Gen" in said
    assert "dummy:tiny" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"profile": "balancd"}, "no profile 'balancd'. Profiles: balanced"),
        ({"modle": "demo"}, "modle: Extra inputs are not permitted"),
        ({"switches": {"t3": {"max_streams": 0}}}, "max_streams"),
        (None, "no application whose import_path is deployments.app:build"),
    ],
)
def test_a_configuration_that_does_not_hold_is_refused(
    args: dict[str, object] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(written(tmp_path, args))]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["applications: 3", "[1]", "a: [", "3"])
def test_what_is_no_configuration_is_said(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(text)
    assert main(["doctor", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "nothing.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def written(folder: Path, args: dict[str, object] | None) -> Path:
    """A configuration with these arguments; with none, of another service."""
    path = folder / "serve_config.yaml"
    own = {"import_path": "deployments.app:build", "args": args} if args is not None else {"import_path": "other:app"}
    path.write_text(yaml.safe_dump({"applications": [own]}))
    return path


def test_bench_measures_and_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "dummy:tiny", "--device", "cpu", "--repeats", "1", "--streams", "2"]
    assert main(["bench", *arguments]) == 0
    table = capsys.readouterr().out
    assert "2 at once, streamed" in table
    assert "real-time factor" in table
