"""Every overlay, rendered by the real kubectl, fits Kubernetes' schemas and our rules. Nothing runs on a cluster."""

import copy
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipelines.build.images import Image
from pipelines.build.pinning import pin
from pipelines.cluster.kubectl import Kubectl
from tests.manifests import rules
from tests.manifests.rules import RULES, Rule
from tests.support.stubs.kubernetes_objects import Object

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "manifests" / "overlays").glob("*/kustomization.yaml"))
IMAGES = {"store": Image(image="registry.example/kubeface/store:1", digest=f"sha256:{'0123456789abcdef' * 4}", size=1)}
# Kinds of others, for which there are no schemas here.
CUSTOM = {("kubeflow.org/v1alpha1", "PodDefault")}
VERSIONS = ("1.34", "1.37")  # the newest that the package has schemas of, and three releases before it


def rendered(overlay: Path) -> list[Object]:
    return pin(yaml.safe_load_all(Kubectl().run("kustomize", str(overlay))), IMAGES)


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(ROOT / "manifests" / "overlays" / request.param)


@pytest.fixture(scope="module")
def dev() -> list[Object]:
    return rendered(ROOT / "manifests" / "overlays" / "dev")


def one(objects: list[Object], kind: str, name: str) -> Any:
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


def test_the_overlays() -> None:
    assert OVERLAYS == ["dev", "existing", "multi-user"]


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_fit_the_schemas(objects: list[Object], version: str) -> None:
    for item in objects:
        if (item["apiVersion"], item["kind"]) not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)


def test_schemas_refuse_what_they_do_not_know(dev: list[Object]) -> None:
    bad = copy.deepcopy(one(dev, "StatefulSet", "kubeface-store"))
    bad["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_objects_keep_the_rule(objects: list[Object], rule: Rule) -> None:
    assert list(rule(objects)) == []


def test_everything_is_ours_and_in_one_namespace(objects: list[Object]) -> None:
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kubeface", item["metadata"]["name"]
        if item["kind"] not in ("Namespace", "PriorityClass"):
            assert item["metadata"]["namespace"] == "kubeface"


def test_a_multi_user_overlay_leaves_the_profile_alone() -> None:
    kinds = {item["kind"] for item in rendered(ROOT / "manifests" / "overlays" / "multi-user")}
    assert not kinds & {"Namespace", "ResourceQuota", "LimitRange", "PriorityClass", "Profile"}


STORE = ("StatefulSet", "kubeface-store")
CONTAINER = "spec.template.spec.containers.0"
SETTINGS = ("ConfigMap", "kubeface-settings")
STEPS_POLICY = ("NetworkPolicy", "kubeface-steps")
SERVICE = ("Service", "kubeface-store")
ROLE = ("Role", "kubeface-runner")
BINDING = ("RoleBinding", "kubeface-runner")
TRAINER = ("Role", "kubeface-trainer")
BUDGET = ("PodDisruptionBudget", "kubeface-store")
BAD: list[tuple[Rule, tuple[str, str], str, Any, str]] = [
    (rules.images_by_digest, STORE, f"{CONTAINER}.image", "registry/store:4.48", "has no digest"),
    (rules.images_by_digest, STORE, f"{CONTAINER}.image", "registry/store@sha256:12", "has no digest"),
    (rules.requests_and_limits, STORE, f"{CONTAINER}.resources.limits.memory", None, "no limits.memory"),
    (rules.requests_and_limits, STORE, f"{CONTAINER}.resources", None, "no requests.cpu"),
    (rules.restricted, STORE, "spec.template.spec.securityContext.runAsNonRoot", False, "runAsNonRoot"),
    (rules.restricted, STORE, "spec.template.spec.securityContext.runAsUser", 0, "runAsUser"),
    (rules.restricted, STORE, "spec.template.spec.securityContext.seccompProfile", None, "seccompProfile"),
    (rules.restricted, STORE, "spec.template.spec.automountServiceAccountToken", None, "token"),
    (rules.restricted, STORE, "spec.template.spec.hostNetwork", True, "host's namespaces"),
    (rules.restricted, STORE, "spec.template.spec.volumes.0", {"name": "h", "hostPath": {"path": "/"}}, "of the host"),
    (rules.restricted, STORE, f"{CONTAINER}.securityContext.readOnlyRootFilesystem", False, "readOnlyRoot"),
    (rules.restricted, STORE, f"{CONTAINER}.securityContext.allowPrivilegeEscalation", None, "privileges"),
    (rules.restricted, STORE, f"{CONTAINER}.securityContext.capabilities", {"drop": ["NET_RAW"]}, "capabilities"),
    (rules.restricted, STORE, f"{CONTAINER}.securityContext.runAsUser", 0, "runs as root"),
    (rules.valid_names, STORE, "metadata.name", "kubeface_store", "RFC 1123"),
    (rules.valid_names, STORE, "metadata.namespace", "kubeface.dev", "RFC 1123"),
    (rules.valid_names, STORE, "metadata.labels.app", "-x", "has a value that is not valid"),
    (rules.valid_names, ("ConfigMap", "kfp-launcher"), "metadata.name", "kubeface-settings", "there twice"),
    (rules.valid_figures, STORE, f"{CONTAINER}.resources.limits.memory", "2 GB", "not a quantity"),
    (rules.valid_figures, ("ResourceQuota", "kubeface"), "spec.hard.pods", "many", "not a quantity"),
    (rules.valid_figures, STORE, f"{CONTAINER}.ports.0.containerPort", 83333, "not a port"),
    (rules.valid_figures, STEPS_POLICY, "spec.egress.3.to.0.ipBlock.cidr", "10.0.0.1/8", "network"),
    (rules.selectors_match, STORE, "spec.template.metadata.labels", {"app": "x"}, "does not match its own pods"),
    (rules.selectors_match, STORE, "spec.serviceName", "other", "no service other"),
    (rules.selectors_match, SERVICE, "spec.selector", {"app": "x"}, "selects no pod"),
    (rules.selectors_match, SERVICE, "spec.ports.0.targetPort", "http", "leads to a port"),
    (rules.selectors_match, BUDGET, "spec.selector.matchLabels", {"a": "x"}, "no pod"),
    (rules.selectors_match, STEPS_POLICY, "spec.podSelector.matchExpressions.0.key", "workflow", "no pod has"),
    (rules.references_exist, STORE, f"{CONTAINER}.env.0.valueFrom.secretKeyRef.name", "keys", "secret keys"),
    (rules.references_exist, STORE, f"{CONTAINER}.env.0.valueFrom.secretKeyRef.key", "user", "no key user"),
    (rules.references_exist, STORE, f"{CONTAINER}.env.2.valueFrom.configMapKeyRef.key", "BUCKET", "no key BUCKET"),
    (rules.references_exist, STORE, f"{CONTAINER}.env.2.valueFrom.configMapKeyRef.name", "other", "config map other"),
    (rules.references_exist, STORE, "spec.template.spec.serviceAccountName", "root", "no account root"),
    (rules.references_exist, STORE, "spec.template.spec.priorityClassName", "high", "priority class high"),
    (rules.references_exist, BINDING, "roleRef.name", "edit", "no role edit"),
    (rules.references_exist, BINDING, "subjects.0.name", "other", "no account other"),
    (rules.references_exist, ROLE, "rules.3.resourceNames", ["keys"], "no keys among the secrets"),
    (
        rules.no_secret_data,
        STORE,
        f"{CONTAINER}.env.1",
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"},
        "has its value",
    ),
    (rules.no_secret_data, SETTINGS, "data.S3_ENDPOINT", "http://a:b@c", "like a key"),
    (rules.no_secret_data, SETTINGS, "kind", "Secret", "a secret in a manifest"),
    (rules.least_privilege, ROLE, "rules.0.verbs", ["*"], "any of verbs"),
    (rules.least_privilege, ROLE, "rules.0.resources", ["trainjobs"], "TrainJobs"),
    (rules.least_privilege, ROLE, "rules.3.resourceNames", None, "more than reading secrets"),
    (rules.least_privilege, TRAINER, "rules.1.resources", ["pods/exec"], "gives others"),
    (rules.least_privilege, ROLE, "kind", "ClusterRole", "whole cluster"),
    (rules.least_privilege, BINDING, "roleRef.kind", "ClusterRole", "role of the cluster"),
    (rules.closed_network, ("NetworkPolicy", "kubeface-deny"), "spec.egress", [{}], "no policy closes the namespace"),
    (rules.closed_network, STEPS_POLICY, "spec.egress.0.to", None, "open to everybody"),
    (rules.closed_network, STEPS_POLICY, "spec.policyTypes", ["Egress"], "no policy that closes"),
    (rules.closed_network, STEPS_POLICY, "spec.egress.3.to.0.ipBlock.cidr", "0.0.0.0/0", "open to"),
    (rules.settings_are_used, SETTINGS, "data.S3_DISABLE_SSL", "false", "begins with http"),
    (rules.settings_are_used, SETTINGS, "data.S3_ENDPOINT", "http://store", "host:port"),
    (rules.settings_are_used, SETTINGS, "data.GPU_TOLERATIONS", "{}", "JSON list"),
    (rules.settings_are_used, SETTINGS, "data.RESOURCES_SIZE", "huge", "RESOURCES_SIZE"),
    (rules.settings_are_used, ("NetworkPolicy", "kubeface-deny"), "spec.x", "STORE_CIDR", "not replaced"),
]


@pytest.mark.parametrize(("rule", "of", "path", "value", "said"), BAD, ids=[f"{b[0].__name__}-{b[4]}" for b in BAD])
def test_rule_catches(dev: list[Object], rule: Rule, of: tuple[str, str], path: str, value: Any, said: str) -> None:
    assert list(rule(dev)) == []
    bad = copy.deepcopy(dev)
    *way, last = path.split(".")
    place = one(bad, *of)
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    found = list(rule(bad))
    assert any(said in wrong for wrong in found), found


def test_every_rule_is_shown_to_catch_something() -> None:
    assert {bad[0] for bad in BAD} == set(RULES)


def changed(folder: Path, overlay: str, **settings: str) -> list[Object]:
    """An overlay with other settings."""
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    path = folder / "manifests" / "overlays" / overlay / "settings.yaml"
    settings_map = yaml.safe_load(path.read_text("utf-8"))
    assert settings.keys() <= settings_map["data"].keys()
    settings_map["data"] |= settings
    path.write_text(yaml.safe_dump(settings_map), "utf-8")
    return rendered(path.parent)


def test_settings_reach_their_places(tmp_path: Path) -> None:
    other = {
        "S3_ENDPOINT": "https://s3.example.com:7443",
        "S3_REGION": "eu-central-1",
        "S3_DISABLE_SSL": "false",
        "STORE_PORT": "7443",
        "STORE_NAMESPACE": "objects",
        "STORE_CIDR": "198.51.100.0/24",
        "API_SERVER_CIDR": "203.0.113.4/32",
        "STORAGE_CLASS": "fast",
        "WEIGHTS_SIZE": "7Gi",
        "WEIGHTS_ACCESS": "ReadWriteMany",
        "QUOTA_CPU": "77",
        "QUOTA_MEMORY": "777Gi",
        "QUOTA_GPU": "7",
        "QUOTA_STORAGE": "7Ti",
    }
    objects = changed(tmp_path, "existing", **other)
    read_by_programs = {"S3_BUCKET", "PIPELINE_ROOT", "KUBEFACE_WEIGHTS_MIRROR", "RESOURCES_SIZE"}
    read_by_programs |= {"GPU_NODE_SELECTOR", "GPU_TOLERATIONS"}
    assert one(objects, *SETTINGS)["data"].keys() == other.keys() | read_by_programs
    for rule in RULES:
        assert list(rule(objects)) == []
    data = one(objects, "ConfigMap", "kfp-launcher")["data"]
    assert data["defaultPipelineRoot"] == one(objects, *SETTINGS)["data"]["PIPELINE_ROOT"] == "s3://kubeface/kfp"
    launcher = yaml.safe_load(data["providers"])["s3"]["default"]
    assert launcher["endpoint"] == "s3.example.com:7443"
    assert (launcher["region"], launcher["disableSSL"]) == ("eu-central-1", False)
    for name in ("kubeface-steps", "kubeface-trainer", "kubeface-trials"):
        store = one(objects, "NetworkPolicy", name)["spec"]["egress"][0]
        assert store["ports"] == [{"protocol": "TCP", "port": 7443}]
        assert store["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "objects"}
        assert store["to"][1]["ipBlock"]["cidr"] == "198.51.100.0/24"
    api = one(objects, "NetworkPolicy", "kubeface-steps")["spec"]["egress"][3]
    assert api["to"] == [{"ipBlock": {"cidr": "203.0.113.4/32"}}]
    assert one(objects, "PersistentVolumeClaim", "kubeface-weights")["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "7Gi"}},
    }
    assert one(objects, "ResourceQuota", "kubeface")["spec"]["hard"] == {
        "requests.cpu": "77",
        "limits.cpu": "77",
        "requests.memory": "777Gi",
        "limits.memory": "777Gi",
        "requests.nvidia.com/gpu": "7",
        "requests.storage": "7Ti",
        "persistentvolumeclaims": "20",
    }


def test_settings_of_the_store_reach_it(tmp_path: Path) -> None:
    objects = changed(tmp_path, "dev", STORAGE_CLASS="fast", STORE_SIZE="7Gi")
    claim = one(objects, *STORE)["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "7Gi")


def test_a_profile_reaches_kubeflow_in_its_namespace(tmp_path: Path) -> None:
    objects = changed(tmp_path, "multi-user", KFP_NAMESPACE="kfp")
    steps = one(objects, "NetworkPolicy", "kubeface-steps")["spec"]["egress"]
    assert steps[2]["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kfp"}}}]
