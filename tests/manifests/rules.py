"""Rules of our own for rendered manifests: each takes the objects of an overlay and yields what is wrong with them."""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import compress, product
from typing import Any

import yaml

from kubeface.plan.resources import SIZES
from pipelines.build.pinning import DIGEST, containers, pod_specs
from pipelines.cluster.secret import SECRETS
from tests.support.stubs.kubernetes_objects import Object

Rule = Callable[[list[Object]], Iterator[str]]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names and …/labels
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?\d+)?")
AMOUNTS = {"requests", "limits", "hard", "default", "defaultRequest", "max", "min", "capacity"}
LABEL_NAMED = {"Namespace", "Service", "StatefulSet", "ServiceAccount"}

# Made by `make secret`, or by Kubeflow Pipelines: name and keys.
SECRETS_MADE_ELSEWHERE = {kept.name: set(kept.keys) for kept in SECRETS}
# Config maps that Kubeflow Pipelines makes where no overlay does.
CONFIG_MAPS_MADE_ELSEWHERE = {"kfp-launcher"}
# Labels of pods that others make: Argo's, JobSet's, Katib's and Kubeflow Pipelines' own; and the one that opens the
# internet to a pod that asks for it.
POD_LABELS_MADE_ELSEWHERE = {
    "workflows.argoproj.io/workflow",
    "jobset.sigs.k8s.io/jobset-name",
    "katib.kubeflow.org/trial",
    "katib.kubeflow.org/component",
    "application-crd-id",
    "kubeface/internet",
}


def name_of(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def found(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def names(objects: list[Object], kind: str) -> set[str]:
    return {item["metadata"]["name"] for item in found(objects, kind)}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for item in objects:
        for pod in pod_specs(item):
            yield name_of(item), pod


def all_containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for where, pod in pods(objects):
        for container in containers(pod):
            yield where, container


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in an object, with the keys that lead to it."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, str(index)))


def images_by_digest(objects: list[Object]) -> Iterator[str]:
    for where, container in all_containers(objects):
        if not DIGEST.fullmatch(container["image"]):
            yield f"{where}: image {container['image']} has no digest"


def requests_and_limits(objects: list[Object]) -> Iterator[str]:
    for where, container in all_containers(objects):
        for kind, resource in product(("requests", "limits"), ("cpu", "memory")):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"{where}: container {container['name']} has no {kind}.{resource}"


def restricted(objects: list[Object]) -> Iterator[str]:
    """The pod security standard `restricted`, and what it leaves open: read-only root, and no key to the API."""
    for where, pod in pods(objects):
        security = pod.get("securityContext", {})
        checks = {
            "runAsNonRoot is not true": security.get("runAsNonRoot") is True,
            "runAsUser is not a user's number": security.get("runAsUser", 0) > 0,
            "seccompProfile is not RuntimeDefault": security.get("seccompProfile") == {"type": "RuntimeDefault"},
            "it shares the host's namespaces": not any(
                pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
            ),
            "it mounts a folder of the host": not any("hostPath" in volume for volume in pod.get("volumes", [])),
            "it gets a token for the Kubernetes API": pod.get("automountServiceAccountToken") is False,
        }
        for container in containers(pod):
            own = container.get("securityContext", {})
            checks |= {
                f"{container['name']}: readOnlyRootFilesystem is not true": own.get("readOnlyRootFilesystem") is True,
                f"{container['name']}: privileges can grow": own.get("allowPrivilegeEscalation") is False
                and not own.get("privileged"),
                f"{container['name']}: not all capabilities are dropped": own.get("capabilities") == {"drop": ["ALL"]},
                f"{container['name']}: runs as root": own.get("runAsUser", 1) > 0 and own.get("runAsNonRoot", True),
            }
        yield from (f"{where}: {text}" for text, holds in checks.items() if not holds)


def valid_names(objects: list[Object]) -> Iterator[str]:
    for item in objects:
        metadata = item["metadata"]
        pattern = LABEL if item["kind"] in LABEL_NAMED else SUBDOMAIN
        if not pattern.fullmatch(metadata["name"]):
            yield f"{name_of(item)}: the name is not valid (RFC 1123)"
        if "namespace" in metadata and not LABEL.fullmatch(metadata["namespace"]):
            yield f"{name_of(item)}: the namespace {metadata['namespace']} is not valid (RFC 1123)"
        for path, value in walk(item):
            if path and path[-1] in ("labels", "matchLabels") and isinstance(value, dict):
                for key, text in value.items():
                    prefix, _, last = key.rpartition("/")
                    if (prefix and not SUBDOMAIN.fullmatch(prefix)) or not LABEL_NAME.fullmatch(last):
                        yield f"{name_of(item)}: the label {key} is not valid"
                    if not isinstance(text, str) or (text and not LABEL_NAME.fullmatch(text)):
                        yield f"{name_of(item)}: the label {key} has a value that is not valid: {text}"
    counts = Counter((item["apiVersion"], name_of(item)) for item in objects)
    yield from (f"{name}: is there twice" for (_, name), count in counts.items() if count > 1)


def valid_figures(objects: list[Object]) -> Iterator[str]:
    """Quantities, addresses and ports."""
    for item in objects:
        for path, value in walk(item):
            if len(path) < 2 or isinstance(value, dict | list):
                continue
            amount = path[-2] in AMOUNTS or path[-1] in ("sizeLimit", "storage")
            if amount and not (isinstance(value, str) and QUANTITY.fullmatch(value)):
                yield f"{name_of(item)}: {'.'.join(path)} is not a quantity: {value}"
            if path[-1] == "cidr" or path[-2] == "except":
                try:
                    ipaddress.ip_network(str(value))
                except ValueError:
                    yield f"{name_of(item)}: {'.'.join(path)} is not a network address: {value}"
            named = isinstance(value, str) and LABEL.fullmatch(value) and not value.isdigit()
            port = path[-1] in ("port", "containerPort", "targetPort") and not named
            if port and not (isinstance(value, int) and 1 <= value <= 65535):
                yield f"{name_of(item)}: {'.'.join(path)} is not a port: {value}"


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def selectors_match(objects: list[Object]) -> Iterator[str]:
    templates = [item["spec"]["template"] for item in objects if item["kind"] in ("StatefulSet", "Deployment", "Job")]
    labels = [template["metadata"].get("labels", {}) for template in templates]
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] in ("StatefulSet", "Deployment"):
            if not spec["selector"].get("matchLabels") or not _selects(
                spec["selector"], spec["template"]["metadata"].get("labels", {})
            ):
                yield f"{name_of(item)}: the selector does not match its own pods"
            if item["kind"] == "StatefulSet" and spec["serviceName"] not in names(objects, "Service"):
                yield f"{name_of(item)}: there is no service {spec['serviceName']}"
        if item["kind"] == "PodDisruptionBudget" and not any(_selects(spec["selector"], one) for one in labels):
            yield f"{name_of(item)}: selects no pod"
        if item["kind"] == "Service":
            chosen = [_selects({"matchLabels": spec["selector"]}, one) for one in labels]
            selected = [one for template in compress(templates, chosen) for one in containers(template["spec"])]
            open_ports = [port for container in selected for port in container.get("ports", [])]
            ports = {name for port in open_ports for name in (port.get("name"), port["containerPort"])}
            if not selected:
                yield f"{name_of(item)}: selects no pod"
            elif any(port.get("targetPort", port["port"]) not in ports for port in spec["ports"]):
                yield f"{name_of(item)}: leads to a port that its pods do not have"
        if item["kind"] == "NetworkPolicy":
            for path, selector in walk(item):
                if path and path[-1] == "podSelector":
                    for key in _unknown_labels(selector, labels):
                        yield f"{name_of(item)}: {'.'.join(path)} selects a label that no pod has: {key}"


def _unknown_labels(selector: Object, labels: list[dict[str, str]]) -> Iterator[str]:
    for key, value in selector.get("matchLabels", {}).items():
        if key not in POD_LABELS_MADE_ELSEWHERE and not any(one.get(key) == value for one in labels):
            yield f"{key}={value}"
    for expression in selector.get("matchExpressions", []):
        if expression["key"] not in POD_LABELS_MADE_ELSEWHERE and not any(expression["key"] in one for one in labels):
            yield expression["key"]


def references_exist(objects: list[Object]) -> Iterator[str]:
    """Secrets and config maps with their keys, claims, accounts, roles, priority classes."""
    maps = {item["metadata"]["name"]: set(item.get("data", {})) for item in found(objects, "ConfigMap")}
    for item in objects:
        for path, value in walk(item):
            where = f"{name_of(item)}: {'.'.join(path)}"
            match path[-1] if path else "":
                case "secretKeyRef" | "secretRef" | "secret" if isinstance(value, dict):
                    name = value.get("name") or value.get("secretName")
                    if name not in SECRETS_MADE_ELSEWHERE:
                        yield f"{where}: nobody makes the secret {name}"
                    elif "key" in value and value["key"] not in SECRETS_MADE_ELSEWHERE[name]:
                        yield f"{where}: the secret {name} has no key {value['key']}"
                case "configMapKeyRef" | "configMapRef" | "configMap" if isinstance(value, dict):
                    if value["name"] not in maps:
                        yield f"{where}: there is no config map {value['name']}"
                    elif "key" in value and value["key"] not in maps[value["name"]]:
                        yield f"{where}: the config map {value['name']} has no key {value['key']}"
                case "claimName" if value not in names(objects, "PersistentVolumeClaim"):
                    yield f"{where}: there is no claim {value}"
                case "serviceAccountName" if value not in names(objects, "ServiceAccount"):
                    yield f"{where}: there is no account {value}"
                case "priorityClassName" if value not in names(objects, "PriorityClass"):
                    yield f"{where}: there is no priority class {value}"
                case "roleRef" if value["name"] not in names(objects, value["kind"]):
                    yield f"{where}: there is no role {value['name']}"
        if item["kind"] == "RoleBinding":
            for subject in item["subjects"]:
                if subject["name"] not in names(objects, "ServiceAccount"):
                    yield f"{name_of(item)}: there is no account {subject['name']}"
        if item["kind"] == "Role":
            known = {"secrets": set(SECRETS_MADE_ELSEWHERE), "configmaps": set(maps) | CONFIG_MAPS_MADE_ELSEWHERE}
            for rule in item["rules"]:
                for resource, name in product(rule["resources"], rule.get("resourceNames", [])):
                    if resource in known and name not in known[resource]:
                        yield f"{name_of(item)}: there is no {name} among the {resource}"
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "kfp-launcher":
            yield from _launcher(item)


def _launcher(item: Object) -> Iterator[str]:
    """KFP's settings of object stores (backend/src/v2/config/s3.go of kubeflow/pipelines): types, and the secret."""
    store = yaml.safe_load(item["data"]["providers"])["s3"]["default"]
    types = {"endpoint": str, "region": str, "disableSSL": bool, "forcePathStyle": bool}
    for key, kind in types.items():
        if type(store[key]) is not kind:
            yield f"{name_of(item)}: {key} is no {kind.__name__}"
    secret = store["credentials"]["secretRef"]
    keys = SECRETS_MADE_ELSEWHERE.get(secret["secretName"], set())
    if {secret["accessKeyKey"], secret["secretKeyKey"]} != keys:
        yield f"{name_of(item)}: nobody makes the secret {secret['secretName']} with these keys"


def no_secret_data(objects: list[Object]) -> Iterator[str]:
    """No Secret at all, no key in a variable, nothing that has the form of a key."""
    yield from (f"{name_of(item)}: a secret in a manifest" for item in found(objects, "Secret"))
    for item in objects:
        for path, value in walk(item):
            given = str(value.get("name", "")) if isinstance(value, dict) and "value" in value else ""
            if re.search(r"KEY|SECRET|TOKEN|PASSWORD|WEBHOOK", given):
                yield f"{name_of(item)}: {given} has its value in the manifest"
            if isinstance(value, str) and re.search(
                r"AKIA[0-9A-Z]{12}|-----BEGIN|://[^/\s]+:[^/\s]+@|hooks\.slack\.com/services", value
            ):
                yield f"{name_of(item)}: {'.'.join(path)} looks like a key"


def least_privilege(objects: list[Object]) -> Iterator[str]:
    for item in objects:
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{name_of(item)}: a right in the whole cluster"
        for rule in item.get("rules", []) if item["kind"] == "Role" else []:
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in rule[field]:
                    yield f"{name_of(item)}: any of {field}"
            if "secrets" in rule["resources"] and (not rule.get("resourceNames") or rule["verbs"] != ["get"]):
                yield f"{name_of(item)}: more than reading secrets by name"
            if {"pods/exec", "pods/attach", "roles", "rolebindings", "serviceaccounts/token"} & set(rule["resources"]):
                yield f"{name_of(item)}: a right that gives others"
            if "trainjobs" in rule["resources"] and item["metadata"]["name"] != "kubeface-trainer":
                yield f"{name_of(item)}: TrainJobs are for the account of runs on several nodes"
        if item["kind"] == "RoleBinding" and item["roleRef"]["kind"] != "Role":
            yield f"{name_of(item)}: binds a role of the cluster"


def closed_network(objects: list[Object]) -> Iterator[str]:
    """Runs' pods are closed in both directions, nothing opens to everywhere but the policy that pods ask for."""
    policies = {item["metadata"]["name"]: item["spec"] for item in found(objects, "NetworkPolicy")}
    closing = [spec for spec in policies.values() if set(spec["policyTypes"]) == {"Ingress", "Egress"}]
    for label in ("workflows.argoproj.io/workflow", "jobset.sigs.k8s.io/jobset-name", "katib.kubeflow.org/trial"):
        selector = {"matchExpressions": [{"key": label, "operator": "Exists"}]}
        if not any(spec["podSelector"] == selector for spec in closing):
            yield f"there is no policy that closes pods with the label {label}"
    if found(objects, "Namespace") and all("ingress" in spec or "egress" in spec for spec in closing):
        yield "no policy closes the namespace"
    for name, spec in policies.items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                if not rule.get(peers):
                    yield f"NetworkPolicy/{name}: {direction} is open to everybody"
                for peer in rule.get(peers, []):
                    block = peer.get("ipBlock", {})
                    if name != "kubeface-internet" and block and ipaddress.ip_network(block["cidr"]).prefixlen < 8:
                        yield f"NetworkPolicy/{name}: {direction} is open to {block['cidr']}"


def settings_are_used(objects: list[Object]) -> Iterator[str]:
    """The settings agree with each other, and nothing is left of the words that they replace."""
    settings = next(
        item["data"] for item in found(objects, "ConfigMap") if item["metadata"]["name"] == "kubeface-settings"
    )
    match = re.fullmatch(r"(https?)://[^/:\s]+:\d+", settings["S3_ENDPOINT"])
    if not match:
        yield f"S3_ENDPOINT is not http(s)://host:port: {settings['S3_ENDPOINT']}"
    elif settings["S3_DISABLE_SSL"] != ("true" if match[1] == "http" else "false"):
        yield f"S3_DISABLE_SSL is {settings['S3_DISABLE_SSL']}, and S3_ENDPOINT begins with {match[1]}"
    for key, kind in (("GPU_NODE_SELECTOR", dict), ("GPU_TOLERATIONS", list)):
        if not isinstance(json.loads(settings[key]), kind):
            yield f"{key} is not a JSON {kind.__name__}"
    if settings["RESOURCES_SIZE"] not in SIZES:
        yield f"RESOURCES_SIZE is none of {', '.join(SIZES)}"
    left = re.findall(
        r"\b(?:HOST:PORT|REGION|BOOL)\b(?! ?[:=])|: (?:STORE_NAMESPACE|STORE_CIDR|KFP_NAMESPACE)\b",
        yaml.safe_dump_all(objects),
    )
    yield from (f"{word} was not replaced by its setting" for word in left)


RULES: tuple[Rule, ...] = (
    images_by_digest,
    requests_and_limits,
    restricted,
    valid_names,
    valid_figures,
    selectors_match,
    references_exist,
    no_secret_data,
    least_privilege,
    closed_network,
    settings_are_used,
)
