"""What the benchmarks' tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs `python -m benchmarks ...` in this process; returns the last line's JSON, which its file must contain."""

    def run(*arguments: str) -> dict[str, Any]:
        main([*arguments, "--output", str(tmp_path)])
        printed = capsys.readouterr().out.strip().splitlines()
        told = json.loads(printed[-1])
        written = json.loads((tmp_path / f"{told['benchmark']}.json").read_text())
        assert {key: written[key] for key in told} == told
        assert printed[0].startswith("date ")
        return written

    return run
