"""Draining: what is refused; that streams end whole is the drill `drain`."""

import subprocess
import sys

import pytest

from tests.service import Service


@pytest.mark.service
def test_an_application_that_is_not_there_is_named(service: Service) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cli", "drain", "--address", address, "--application", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "No application is called 'nobody'" in done.stderr) == (1, True), done.stderr
    service.wait_until_idle()
