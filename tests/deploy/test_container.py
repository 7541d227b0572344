"""The container file, as far as it can be read without a container engine."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/Containerfile"
LINES = re.sub(r"\\\n", " ", FILE.read_text()).splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith("#")]


def steps(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def copied() -> list[str]:
    """What comes from the project's folder."""
    return [source for rest in steps("COPY") if "--from" not in rest for source in shlex.split(rest)[:-1]]


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is not on the path")
    done = subprocess.run([tool, str(FILE)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_that_is_pinned_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (python,) = (rest.partition("=")[2] for rest in steps("ARG"))
    image, _, tag = python.partition(":")
    version = re.match(r"3\.(\d+)\.\d+-slim-\w+$", tag)
    assert image == "docker.io/library/python"
    assert version, tag
    low, high = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    assert low <= int(version[1]) < high
    assert all(re.search(r"install .*\S==\d", rest) for rest in steps("RUN") if "pip install" in rest)
    assert f":{project['version']}-cpu" in FILE.read_text()


def test_the_stages_are_these() -> None:
    stages = [rest.split(" AS ") for rest in steps("FROM")]
    assert [name for _, name in stages] == ["build", "runtime", "cpu", "cuda"]
    assert {base for base, _ in stages} == {"${PYTHON}", "runtime"}


def test_what_is_copied_is_there_and_let_through() -> None:
    """`.dockerignore` lets nothing through that is not copied."""
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert all((ROOT / source).exists() for source in copied())
    assert sorted(copied()) == sorted(let_through)


def test_the_image_has_every_package_that_the_service_imports() -> None:
    sources = [path for source in copied() for path in (ROOT / source).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    imported = {name for name in ours if re.search(rf"^\s*(from|import) {name}\b", text, re.M)}
    assert imported <= {Path(source).name for source in copied()}


def test_it_runs_as_nobody_in_particular_and_ends_on_sigterm() -> None:
    assert steps("USER") == ["10001:10001"]
    assert any("chmod 1777 /home/chatterbox" in rest for rest in steps("RUN"))  # a tmpfs there takes over its mode
    (check,) = steps("HEALTHCHECK")
    config = yaml.safe_load((ROOT / "deploy/serve_config.yaml").read_text())
    assert f"127.0.0.1:{config['http_options']['port']}/health" in check
    assert steps("EXPOSE") == [str(config["http_options"]["port"])]
    assert all(rest.startswith("[") for name in ("ENTRYPOINT", "CMD") for rest in steps(name))


def test_its_configuration_is_valid_and_lets_nobody_in_without_a_key() -> None:
    config = yaml.safe_load((ROOT / "deploy/serve_config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert config.keys() <= ServeDeploySchema.model_fields.keys()
    settings = ServiceSettings.model_validate(schema.applications[0].args)
    assert settings.keys_file is not None
    assert not settings.open_to_network
