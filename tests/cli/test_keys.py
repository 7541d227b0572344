"""python -m cli keys."""

from pathlib import Path

import pytest

from cli.__main__ import main
from deployments.keys import KeyRing


def test_the_command_adds_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"

    def run(*arguments: str) -> str:
        assert main(["keys", "--file", str(file), *arguments]) == 0
        return capsys.readouterr().out

    secret = run("add", "anna", "--requests-per-minute", "60").strip()
    assert KeyRing(file).find(secret) is not None
    listed = run("list")
    assert "anna" in listed
    assert "60" in listed
    assert secret not in listed
    run("remove", "anna")
    assert run("list") == ""
    for wrong in (("remove", "anna"), ("add", "a b"), ("add", "c", "--streams", "0")):
        assert main(["keys", "--file", str(file), *wrong]) == 1
        assert capsys.readouterr().err.startswith("error: ")
