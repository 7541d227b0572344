"""Settings, the configuration file, and where the builder puts replicas."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from chatterbox_engine.errors import InvalidRequest
from deployments.app import place, taken
from deployments.identity import Runtime
from deployments.settings import ServiceSettings

ROOT = Path(__file__).parents[2]


def test_the_configuration_file_says_only_what_is_read() -> None:
    """Ray ignores unknown keys at its own levels, so that a misspelt one would do nothing."""
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    (application,) = schema.applications
    assert set(content["applications"][0]) <= set(type(application).model_fields)
    assert content["http_options"]["host"] == "127.0.0.1"
    ServiceSettings.model_validate(application.args).engine_config()


def test_unknown_keys_and_switches_are_refused() -> None:
    with pytest.raises(ValidationError, match="modle"):
        ServiceSettings.model_validate({"modle": "dummy:tiny"})
    with pytest.raises(InvalidRequest, match="max_streems"):
        ServiceSettings(switches={"t3": {"max_streems": 3}}).engine_config()
    with pytest.raises(InvalidRequest, match="fastest"):
        ServiceSettings(profile="fastest").engine_config()


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_on_a_cpu_the_deployments_add_up_to_the_cores(cores: int) -> None:
    settings = ServiceSettings(t3_replicas=1, s3gen_replicas=1)
    where = place(settings, cores, gpus=0)
    assert where.runtime.device == "cpu"
    assert 2 * where.stage["num_cpus"] + where.voices["num_cpus"] <= cores
    assert 2 * where.runtime.threads <= cores
    assert "num_gpus" not in where.stage


@pytest.mark.parametrize(
    ("gpus", "t3", "s3gen", "fraction"), [(1, 1, 1, 0.5), (2, 1, 1, 1.0), (2, 1, 2, 0.5), (4, 1, 3, 1.0)]
)
def test_on_gpus_replicas_get_whole_devices_or_fractions_that_fit(
    gpus: int, t3: int, s3gen: int, fraction: float
) -> None:
    where = place(ServiceSettings(t3_replicas=t3, s3gen_replicas=s3gen), 16, gpus)
    assert where.runtime.device == "cuda"
    assert where.stage["num_gpus"] == fraction
    assert int(1 / fraction) * gpus >= t3 + s3gen
    assert where.runtime.memory_fraction == fraction


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_stages_that_share_a_replica_share_its_cores(cores: int) -> None:
    where = place(ServiceSettings(layout="colocated"), cores, gpus=0)
    assert where.stage["num_cpus"] + where.voices["num_cpus"] <= cores
    assert 2 * where.runtime.threads <= cores
    where = place(ServiceSettings(layout="colocated", s3gen_replicas=2), cores, gpus=0)
    assert 4 * where.runtime.threads <= max(4, cores)
    assert place(ServiceSettings(layout="colocated", t3_replicas=3), 8, gpus=1).stage["num_gpus"] == 1.0


def test_a_cpu_asked_for_is_a_cpu_given() -> None:
    assert place(ServiceSettings(device="cpu"), 8, gpus=2).runtime.device == "cpu"


def test_a_replica_takes_what_the_settings_name_and_else_its_share() -> None:
    found = Runtime("cuda", 2, "test", memory_fraction=0.25)
    shared = {"num_cpus": 1.0, "num_gpus": 0.25}
    settings = ServiceSettings(device="cuda", resources={"t3": {"CPU": 4, "GPU": 0.5, "t3": 1}, "voices": {"front": 1}})
    options, runtime = taken(settings, "t3", shared, found)
    assert options == {"num_cpus": 4, "num_gpus": 0.5, "resources": {"t3": 1}}
    assert (runtime.threads, runtime.memory_fraction) == (4, 0.5)
    assert taken(settings, "s3gen", shared, found) == (shared, found)
    assert taken(settings, "voices", {"num_cpus": 0.1}, found) == ({"num_cpus": 0.1, "resources": {"front": 1}}, found)
    together = settings.model_copy(update={"layout": "colocated", "resources": {"s3gen": {"CPU": 4}}})
    assert taken(together, "s3gen", shared, found)[1].threads == 2


@pytest.mark.parametrize("wrong", [{"t4": {"CPU": 1}}, {"t3": {"CPU": 0}}, {"t3": {"GPU": 1}}])
def test_resources_that_would_bind_nothing_are_refused(wrong: dict[str, dict[str, float]]) -> None:
    """A deployment that is none, nothing of something, and a GPU for a stage that may run beside it on the CPU."""
    with pytest.raises(ValidationError):
        ServiceSettings.model_validate({"resources": wrong})
