"""Settings, the configuration file, and where the builder puts replicas."""

import math
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application, Deployment
from ray.serve.schema import ServeDeploySchema

from chatterbox_engine.errors import InvalidRequest
from deployments.app import build, place, taken
from deployments.runtime import Runtime
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


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("layout", ["split", "colocated"])
def test_on_equal_nodes_every_replica_finds_its_cores(nodes: int, layout: Literal["split", "colocated"]) -> None:
    for s3gen in range(1, 6):
        settings = ServiceSettings(layout=layout, s3gen_replicas=s3gen)
        where = place(settings, 8 * nodes, gpus=0, nodes=nodes)
        fit = int((8 - where.voices["num_cpus"]) / where.stage["num_cpus"])
        replicas = s3gen + (layout == "split")
        assert nodes * fit >= replicas
        engines = math.ceil(replicas / nodes) * (2 if layout == "colocated" else 1)
        assert engines * where.runtime.threads <= max(8, engines)


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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"t3_replicas": 0}, "set t3_replicas_max"),
        ({"s3gen_replicas": 3, "s3gen_replicas_max": 2}, "below s3gen_replicas"),
        ({"layout": "colocated", "t3_replicas_max": 2}, "set s3gen_replicas_max alone"),
        ({"t3_replicas": 0, "t3_replicas_max": 2, "scale_idle_s": 20.0}, "not above s3gen.max_lead_s"),
        ({"s3gen_replicas": 0, "s3gen_replicas_max": 2, "scale_idle_s": 60.0}, "not above wake_wait_s"),
    ],
)
def test_numbers_of_replicas_that_make_no_sense_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServiceSettings.model_validate(given)


def test_there_is_room_for_as_many_replicas_as_there_may_be() -> None:
    scales = ServiceSettings(t3_replicas_max=3, s3gen_replicas=0, s3gen_replicas_max=5)
    assert place(scales, 16, 0) == place(ServiceSettings(t3_replicas=3, s3gen_replicas=5), 16, 0)
    assert place(scales, 16, 4).stage["num_gpus"] == 0.5


def deployments(settings: ServiceSettings) -> dict[str, Deployment]:
    """Those of T3 and S3Gen as the builder binds them."""
    ingress = build(settings)._bound_deployment
    bound = (node._bound_deployment for node in ingress.init_args if isinstance(node, Application))
    return {deployment.name: deployment for deployment in bound if deployment.name in ("T3", "S3Gen")}


def test_who_sets_nothing_gets_what_there_was() -> None:
    for deployment in deployments(ServiceSettings(model="dummy:tiny")).values():
        assert deployment.num_replicas == 1
        assert deployment._deployment_config.autoscaling_config is None
        assert deployment._deployment_config.request_router_config.is_default_request_router()
        assert deployment._deployment_config.graceful_shutdown_timeout_s == 120


def test_a_stage_that_scales_has_its_limits_and_a_router() -> None:
    found = deployments(ServiceSettings(model="dummy:tiny", t3_replicas_max=1, s3gen_replicas=0, s3gen_replicas_max=5))
    t3, s3gen = (found[name]._deployment_config for name in ("T3", "S3Gen"))
    scaling = s3gen.autoscaling_config
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (0, 1, 5)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.metrics_interval_s) == (0, 0, 1)
    assert scaling.policy.policy_kwargs["most"] == 5
    assert s3gen.request_router_config.request_router_class == "deployments.routing:VoiceRouter"
    assert t3.request_router_config.is_default_request_router()  # one replica at most
