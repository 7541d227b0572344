"""The manifests of every size, rendered, against Kubernetes' schemas, Ray's, the service's settings and each other."""

import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import start as ray_start
from ray.serve.schema import ServeDeploySchema

from deployments.s3gen import S3Gen
from deployments.settings import ServiceSettings
from deployments.t3 import T3

ROOT = Path(__file__).parents[2]
SIZES = sorted(path.name for path in (ROOT / "deploy/kubernetes/overlays").iterdir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KUBERNETES = "1.37.0"
GPU = "nvidia.com/gpu"
# Names that KubeRay 1.7.0's own schema has at these places, as far as the manifests use them. A cluster refuses others.
RAY_SERVICE = {
    "serveConfigV2", "upgradeStrategy", "rayClusterDeletionDelaySeconds", "excludeHeadPodFromServeSvc", "serveService",
    "rayClusterConfig",
}  # fmt: skip
RAY_CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "gcsFaultToleranceOptions"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}

Object = dict[str, Any]


def rendered(size: str) -> list[Object]:
    tool = shutil.which("kustomize") or shutil.which("kubectl")
    if tool is None:
        pytest.skip("neither kustomize nor kubectl is on the path")
    command = [
        tool,
        "build" if tool.endswith("kustomize") else "kustomize",
        str(ROOT / "deploy/kubernetes/overlays" / size),
    ]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout))


class Manifests:
    """What a size sends to a cluster."""

    def __init__(self, size: str) -> None:
        self.objects = rendered(size)
        (self.service,) = self.of("RayService")
        self.serve: Object = yaml.safe_load(self.service["spec"]["serveConfigV2"])
        self.cluster: Object = self.service["spec"]["rayClusterConfig"]
        self.head: Object = self.cluster["headGroupSpec"]
        self.workers: list[Object] = self.cluster["workerGroupSpecs"]
        self.settings = ServiceSettings.model_validate(self.serve["applications"][0]["args"])
        self.port: int = self.serve["http_options"]["port"]

    def of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def groups(self) -> Iterator[Object]:
        yield self.head
        yield from self.workers

    def home(self, role: str) -> Object:
        """The one group whose nodes have what the role's replicas take."""
        names = self.settings.resources[role].keys() - {"CPU", "GPU"}  # type: ignore[index]
        (group,) = (group for group in self.workers if names and names <= own(group).keys())
        return group

    def replicas(self, role: str) -> int:
        return int(getattr(self.settings, f"{role}_replicas", 1))


def own(group: Object) -> dict[str, float]:
    """The resources of the operator's own naming; KubeRay puts the value into a shell's line as it stands, so it is
    quoted twice."""
    return dict(json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"'))))


def container(group: Object) -> Object:
    (one,) = group["template"]["spec"]["containers"]
    return dict(one)


def limit(group: Object, name: str) -> float:
    return float(container(group)["resources"]["limits"].get(name, 0))


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(size: str) -> Manifests:
    return Manifests(size)


def test_the_sizes_are_these() -> None:
    assert SIZES == ["gpu-large", "gpu-one", "small"]


def test_objects_are_valid(manifests: Manifests) -> None:
    """By Kubernetes' own schemas; of what KubeRay and Prometheus's operator define, the pods and the names."""
    schemas = pytest.importorskip("kubernetes_validate")
    pods = [{"apiVersion": "v1", "kind": "Pod", **group["template"]} for group in manifests.groups()]
    service = {"apiVersion": "v1", "kind": "Service", **manifests.service["spec"]["serveService"]}
    plain = [one for one in manifests.objects if one["kind"] not in ("RayService", "PodMonitor", "PrometheusRule")]
    for one in (*plain, *pods, service):
        schemas.validate(one, KUBERNETES, strict=True)
    assert manifests.service["apiVersion"] == "ray.io/v1"
    assert manifests.service["spec"].keys() <= RAY_SERVICE
    assert manifests.cluster.keys() <= RAY_CLUSTER
    assert all(group.keys() <= GROUP for group in manifests.groups())
    assert all(group.keys() == GROUP for group in manifests.workers)
    options = {name.removeprefix("--") for parameter in ray_start.params for name in parameter.opts}
    assert all(group["rayStartParams"].keys() <= options for group in manifests.groups())


def test_an_unknown_name_is_noticed() -> None:
    """The check above must be able to fail."""
    schemas = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    with pytest.raises(schemas.ValidationError):
        schemas.validate({**pod, "spec": {"containers": [{"name": "x", "imagee": "y"}]}}, KUBERNETES, strict=True)


def test_what_serve_is_handed_is_what_is_read(manifests: Manifests, size: str) -> None:
    file = yaml.safe_load((ROOT / "deploy/kubernetes/overlays" / size / "serve_config.yaml").read_text())
    assert manifests.serve == file
    schema = ServeDeploySchema.model_validate(file)
    assert file.keys() <= ServeDeploySchema.model_fields.keys()
    for part in ("http_options", "logging_config"):
        assert file[part].keys() <= type(getattr(schema, part)).model_fields.keys()
    (application,) = file["applications"]
    assert application.keys() <= type(schema.applications[0]).model_fields.keys()
    assert application["import_path"] == "deployments.app:build"
    manifests.settings.engine_config()


def test_every_replica_has_a_place(manifests: Manifests) -> None:
    """Each deployment's nodes are one group, which has enough of all that its replicas take."""
    assert manifests.settings.resources.keys() == {"ingress", "voices", "jobs", "t3", "s3gen"}
    assert own(manifests.head) == {}
    assert manifests.head["rayStartParams"]["num-cpus"] == "0"
    for group in manifests.workers:
        roles = [role for role in manifests.settings.resources if manifests.home(role) is group]
        assert roles, group["groupName"]
        has = {**own(group), "CPU": limit(group, "cpu"), "GPU": limit(group, GPU)}
        for name, amount in has.items():
            taken = sum(manifests.settings.resources[role].get(name, 0) * manifests.replicas(role) for role in roles)
            assert taken <= amount * group["replicas"], (group["groupName"], name)
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_gpus_are_for_the_stages_alone(manifests: Manifests) -> None:
    stages = [manifests.home("t3"), manifests.home("s3gen")]
    on_gpus = manifests.settings.device == "cuda"
    for group in manifests.groups():
        pod = group["template"]["spec"]
        wanted = on_gpus and any(group is stage for stage in stages)
        assert bool(limit(group, GPU)) == wanted
        assert (GPU in str(pod.get("tolerations"))) == ("nodeSelector" in pod) == wanted
        requests = container(group)["resources"]["requests"]
        assert requests.get(GPU) == container(group)["resources"]["limits"].get(GPU)
    for role in ("t3", "s3gen"):
        taken = manifests.settings.resources[role]  # type: ignore[index]
        assert ("GPU" in taken) == on_gpus
        assert "CPU" in taken  # named, since no node may be there yet when the builder looks


def test_files_are_where_the_settings_look(manifests: Manifests) -> None:
    settings = manifests.settings
    front = manifests.home("ingress")
    mounts = {mount["mountPath"]: mount["name"] for mount in container(front)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in front["template"]["spec"]["volumes"]}
    assert settings.keys_file is not None
    assert volumes[mounts[str(settings.keys_file.parent)]]["secret"]["secretName"] == "chatterbox-keys"
    assert manifests.home("voices") is manifests.home("jobs") is front
    (claim,) = manifests.of("PersistentVolumeClaim")
    for folder in (Path(settings.voices_folder), settings.jobs_folder):
        named = volumes[mounts[str(folder.parent)]]["persistentVolumeClaim"]["claimName"]
        assert named == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    others = [group for group in manifests.groups() if group is not front]
    assert all("secret" not in volume for group in others for volume in group["template"]["spec"]["volumes"])


def test_ports_are_the_same_everywhere(manifests: Manifests) -> None:
    (port,) = manifests.service["spec"]["serveService"]["spec"]["ports"]
    assert port["port"] == port["targetPort"] == manifests.port
    for group in manifests.groups():
        ports = {one["name"]: one["containerPort"] for one in container(group)["ports"]}
        assert ports["serve"] == manifests.port
        assert str(ports["metrics"]) == group["rayStartParams"]["metrics-export-port"]
    policy = manifests.of("NetworkPolicy")[0]["spec"]
    ours = {"app.kubernetes.io/name": "chatterbox"}
    assert policy["podSelector"]["matchLabels"] == ours
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(group["template"]["metadata"]["labels"] == ours for group in manifests.groups())
    inside = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert inside == [{"from": [{"podSelector": {"matchLabels": ours}}]}]
    outside = {one["port"] for rule in policy["ingress"] for one in rule.get("ports", ())}
    assert outside == {one["containerPort"] for one in container(manifests.head)["ports"]} - {6379}
    monitored = {one["port"] for one in manifests.of("PodMonitor")[0]["spec"]["podMetricsEndpoints"]}
    assert monitored <= {one["name"] for one in container(manifests.head)["ports"]}


def test_pods_have_no_rights_that_they_need_not(manifests: Manifests) -> None:
    (namespace,) = manifests.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert manifests.cluster["authOptions"] == {"mode": "token"}
    for group in manifests.groups():
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        rights = container(group)["securityContext"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["readOnlyRootFilesystem"]
        assert not rights["allowPrivilegeEscalation"]
        writable = {mount["mountPath"] for mount in container(group)["volumeMounts"]}
        assert {"/tmp", "/home/chatterbox"} <= writable


def test_no_secret_is_in_the_files(manifests: Manifests) -> None:
    """They are made on the cluster (deploy/README.md)."""
    assert not manifests.of("Secret")
    for path in (ROOT / "deploy").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "kind: Secret" not in text, path
            assert "cbx-" not in text, path  # how a key begins


def test_one_image_and_its_versions_are_the_projects(manifests: Manifests) -> None:
    (image,) = {container(group)["image"] for group in manifests.groups()}
    device = "cuda" if manifests.settings.device == "cuda" else "cpu"
    assert image.rpartition(":")[2] == f"{PROJECT['version']}-{device}"
    assert f"ray[serve]=={manifests.cluster['rayVersion']}" in PROJECT["dependencies"]


def test_a_pod_waits_for_its_streams_and_is_ready_when_the_service_is(manifests: Manifests) -> None:
    longest = max(d._deployment_config.graceful_shutdown_timeout_s for d in (T3, S3Gen))  # type: ignore[attr-defined]
    for group in manifests.workers:
        before = container(group)["lifecycle"]["preStop"]["exec"]["command"][-1]
        drain = float(before.partition("--deadline-remaining-seconds ")[2].partition(";")[0])
        assert longest < drain < group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert container(group)["readinessProbe"]["httpGet"] == {"path": "/health", "port": "serve"}
    assert longest < manifests.service["spec"]["rayClusterDeletionDelaySeconds"]


def test_a_budget_leaves_one_pod_to_be_moved(manifests: Manifests) -> None:
    groups = {group["groupName"]: group for group in manifests.workers}
    for budget in manifests.of("PodDisruptionBudget"):
        name = budget["spec"]["selector"]["matchLabels"]["ray.io/group"]
        assert budget["spec"]["minAvailable"] == groups[name]["replicas"] - 1 > 0
