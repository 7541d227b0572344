"""benchmarks/gpu.sh, dry, without what the GPU machine lacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "fastapi", "chatterbox", "perth", "librosa", "torchaudio", "s3tokenizer", "gradio", "httpx")
STEPS = [
    "tests", "bandwidth", "t3", "syncs", "s3gen", "e2e", "listeners", "chunked", "offline", "low-vram", "t3-int8",
    "t3-plain", "s3gen-eager",
]  # fmt: skip
_BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.skipif(shutil.which("timeout") is None, reason="the script is for Linux: timeout(1) is not here")
def test_it_runs_dry_in_a_bare_python(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_BLOCK)
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", wheels, out, "--dry-run"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=2700, check=False,
    )  # fmt: skip
    written = json.loads((out / "gpu.json").read_text()) if out.is_dir() else {"steps": {}}
    failed = {name: step["log"] for name, step in written["steps"].items() if step["status"]}
    assert (done.returncode, failed) == (0, {}), done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last["steps"]) == list(written["steps"]) == STEPS
    assert all(step["results"] for name, step in last["steps"].items() if name != "tests")
    assert written["steps"]["t3"]["results"][0]["rounds"]


def test_without_folders_it_says_how_it_is_called() -> None:
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "WHEELS OUT [--dry-run]" in done.stderr
