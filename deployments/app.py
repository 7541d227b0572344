"""build(settings) -> Application: the only place that binds deployments and decides where they run."""

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
import torch
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.guard import check
from deployments.ingress import Ingress
from deployments.jobs import Jobs
from deployments.routing import TOLD_S
from deployments.runtime import Runtime
from deployments.s3gen import S3Gen
from deployments.scaling import LOOK_S
from deployments.settings import Role, ServiceSettings, Stage
from deployments.t3 import T3
from deployments.voices import Voices

_LOOK_BACK_S = 5.0
"""Of the figures that replicas keep for the policy, which reads the last ones."""
_LEAVE_S = 1200.0
"""A replica that leaves finishes its streams. The longest text, at the slowest speed, takes about so long."""


def build(settings: ServiceSettings) -> Application:
    """The whole service.

    On GPUs, T3 and S3Gen pin a device each where there are enough, and else share one by fractions; on a CPU they
    share the cores, with torch's threads set to each one's share.
    """
    settings.engine_config()  # a wrong switch is refused here, before anything starts
    check(settings)
    resources = ray.cluster_resources() if ray.is_initialized() else {}
    cores = int(resources.get("CPU", torch.get_num_threads()))
    nodes = sum("CPU" in node["Resources"] for node in ray.nodes() if node["Alive"]) if resources else 1
    where = place(settings, cores, int(resources.get("GPU", torch.cuda.device_count())), max(1, nodes))

    def sized(deployment: Any, role: Role, shared: dict[str, float]) -> tuple[Deployment, Runtime]:
        options, runtime = taken(settings, role, shared, where.runtime)
        return cast(Deployment, deployment.options(ray_actor_options=options)), runtime

    deployment, runtime = sized(Voices, "voices", where.voices)
    voices = deployment.bind(settings, runtime)
    t3 = None
    if settings.layout == "split":
        deployment, runtime = sized(_stage(T3, "t3", settings), "t3", where.stage)
        t3 = deployment.bind(settings, runtime, voices)
    deployment, runtime = sized(_stage(S3Gen, "s3gen", settings), "s3gen", where.stage)
    s3gen = deployment.bind(settings, runtime, voices, t3)
    jobs = sized(Jobs, "jobs", {"num_cpus": 0})[0].bind(settings, s3gen)
    return sized(Ingress, "ingress", {"num_cpus": 0})[0].bind(settings, voices, s3gen, t3, jobs)


@dataclass(frozen=True, slots=True)
class Place:
    """Resources of a replica of either stage and of the voices, and how a stage computes."""

    stage: dict[str, float]
    voices: dict[str, float]
    runtime: Runtime


def _stage(deployment: Any, stage: Stage, settings: ServiceSettings) -> Any:
    """With as many replicas as the settings say, or as the load wants; with a router where there may be several."""
    least = settings.t3_replicas if stage == "t3" else settings.s3gen_replicas
    most = settings.most(stage)
    if most > 1:
        router = {
            "request_router_class": "deployments.routing:VoiceRouter",
            "request_router_kwargs": {"least": least},
            "request_routing_stats_period_s": TOLD_S,
        }
        deployment = deployment.options(request_router_config=router)
    if not settings.scales(stage):
        return deployment.options(num_replicas=least)
    return deployment.options(
        autoscaling_config=_autoscaling(settings, deployment.name, least, most), graceful_shutdown_timeout_s=_LEAVE_S
    )


def _autoscaling(settings: ServiceSettings, name: str, least: int, most: int) -> AutoscalingConfig:
    """Ray's delays are 0: the policy has its own. It begins with one replica, which shows that the model loads."""
    kwargs = {
        "stage": name,
        "least": least,
        "most": most,
        "idle_s": settings.scale_idle_s,
        "cold_start_s": settings.cold_start_s,
    }
    return AutoscalingConfig(
        min_replicas=least,
        initial_replicas=max(1, least),
        max_replicas=most,
        metrics_interval_s=LOOK_S,
        look_back_period_s=_LOOK_BACK_S,
        upscale_delay_s=0,
        downscale_delay_s=0,
        policy=AutoscalingPolicy(policy_function="deployments.scaling:ServePolicy", policy_kwargs=kwargs),
    )


def place(settings: ServiceSettings, cores: int, gpus: int, nodes: int = 1) -> Place:
    """Where replicas run, on so many cores and GPUs of equal nodes: as many of them as there may be at a time."""
    split = settings.layout == "split"
    replicas = settings.most("s3gen") + (settings.most("t3") if split else 0)
    if settings.device == "cpu" or (settings.device == "auto" and gpus == 0):
        why = "device cpu as configured" if settings.device == "cpu" else "device auto: the cluster has no GPU"
        here, own = math.ceil(replicas / nodes), cores // nodes
        share = max(0.1, round((own - 0.2) / here, 2))
        threads = max(1, own // (here if split else 2 * here))
        return Place({"num_cpus": share}, {"num_cpus": 0.1}, Runtime("cpu", threads, why))
    why = f"device {settings.device}: the cluster has {gpus} GPUs"
    fraction = round(1 / math.ceil(replicas / max(1, gpus)), 4)
    runtime = Runtime("cuda", 2, why, memory_fraction=fraction)
    return Place({"num_cpus": 1, "num_gpus": fraction}, {"num_cpus": 0.1}, runtime)


def taken(
    settings: ServiceSettings, role: Role, shared: dict[str, float], runtime: Runtime
) -> tuple[dict[str, Any], Runtime]:
    """What a deployment's replicas take of their node, as Ray's options, and how they compute: what the settings name,
    and else what was shared out."""
    named = dict(settings.resources.get(role, {}))
    options: dict[str, Any] = dict(shared)
    if cpus := named.pop("CPU", None):
        engines = 2 if settings.layout == "colocated" and role == "s3gen" else 1
        options["num_cpus"] = cpus
        runtime = replace(runtime, threads=max(1, int(cpus) // engines))
    if gpus := named.pop("GPU", None):
        options["num_gpus"] = gpus
        runtime = replace(runtime, memory_fraction=min(1.0, gpus))
    if named:
        options["resources"] = named
    return options, runtime
