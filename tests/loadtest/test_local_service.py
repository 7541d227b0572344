"""A service of one's own leaves nothing behind, whatever becomes of its start."""

import subprocess
from pathlib import Path

import psutil
import pytest

from loadtest.local_service import LocalService


def test_a_start_that_fails_leaves_no_process_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[psutil.Popen, Path]] = []

    def start(service: LocalService) -> None:
        service._process = psutil.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        left.append((service._process, service.folder))
        raise RuntimeError("The service did not start.")

    monkeypatch.setattr(LocalService, "start", start)
    with pytest.raises(RuntimeError, match="did not start"), LocalService(model="dummy:tiny"):
        pass
    ((process, folder),) = left
    assert process.wait(5) == -9
    assert not folder.exists()
