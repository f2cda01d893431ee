"""Rules of our own for rendered manifests: each takes the objects of an overlay and returns what is wrong with them."""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from pipelines.build.pinning import DIGEST, containers, pod_specs
from pipelines.cluster.secret import SECRETS
from tests.support.stubs.kubernetes_objects import Object

Rule = Callable[[list[Object]], list[str]]

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


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in an object, with the keys that lead to it."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, str(index)))


def images_by_digest(objects: list[Object]) -> list[str]:
    return [
        f"{where}: image {container['image']} has no digest"
        for where, pod in pods(objects)
        for container in containers(pod)
        if not DIGEST.fullmatch(container["image"])
    ]


def requests_and_limits(objects: list[Object]) -> list[str]:
    return [
        f"{where}: container {container['name']} has no {kind}.{resource}"
        for where, pod in pods(objects)
        for container in containers(pod)
        for kind in ("requests", "limits")
        for resource in ("cpu", "memory")
        if resource not in container.get("resources", {}).get(kind, {})
    ]


def restricted(objects: list[Object]) -> list[str]:
    """The pod security standard `restricted`, and what it leaves open: read-only root, and no key to the API."""
    wrong = []
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
        wrong += [f"{where}: {text}" for text, holds in checks.items() if not holds]
    return wrong


def valid_names(objects: list[Object]) -> list[str]:
    wrong = []
    for item in objects:
        metadata = item["metadata"]
        pattern = LABEL if item["kind"] in LABEL_NAMED else SUBDOMAIN
        if not pattern.fullmatch(metadata["name"]):
            wrong.append(f"{name_of(item)}: the name is not valid (RFC 1123)")
        if "namespace" in metadata and not LABEL.fullmatch(metadata["namespace"]):
            wrong.append(f"{name_of(item)}: the namespace {metadata['namespace']} is not valid (RFC 1123)")
        for path, value in walk(item):
            if path and path[-1] in ("labels", "matchLabels") and isinstance(value, dict):
                for key, text in value.items():
                    prefix, _, last = key.rpartition("/")
                    if (prefix and not SUBDOMAIN.fullmatch(prefix)) or not LABEL_NAME.fullmatch(last):
                        wrong.append(f"{name_of(item)}: the label {key} is not valid")
                    if not isinstance(text, str) or (text and not LABEL_NAME.fullmatch(text)):
                        wrong.append(f"{name_of(item)}: the label {key} has a value that is not valid: {text}")
    seen: set[tuple[str, str]] = set()
    for item in objects:
        key = (item["apiVersion"], name_of(item))
        if key in seen:
            wrong.append(f"{name_of(item)}: is there twice")
        seen.add(key)
    return wrong


def valid_figures(objects: list[Object]) -> list[str]:
    """Quantities, addresses and ports."""
    wrong = []
    for item in objects:
        for path, value in walk(item):
            if len(path) < 2 or isinstance(value, dict | list):
                continue
            amount = path[-2] in AMOUNTS or path[-1] in ("sizeLimit", "storage")
            if amount and not (isinstance(value, str) and QUANTITY.fullmatch(value)):
                wrong.append(f"{name_of(item)}: {'.'.join(path)} is not a quantity: {value}")
            if path[-1] == "cidr" or path[-2] == "except":
                try:
                    ipaddress.ip_network(str(value))
                except ValueError:
                    wrong.append(f"{name_of(item)}: {'.'.join(path)} is not a network address: {value}")
            named = isinstance(value, str) and LABEL.fullmatch(value) and not value.isdigit()
            port = path[-1] in ("port", "containerPort", "targetPort") and not named
            if port and not (isinstance(value, int) and 1 <= value <= 65535):
                wrong.append(f"{name_of(item)}: {'.'.join(path)} is not a port: {value}")
    return wrong


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def selectors_match(objects: list[Object]) -> list[str]:
    wrong = []
    templates = [item["spec"]["template"] for item in objects if item["kind"] in ("StatefulSet", "Deployment", "Job")]
    labels = [template["metadata"].get("labels", {}) for template in templates]
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] in ("StatefulSet", "Deployment"):
            if not spec["selector"].get("matchLabels") or not _selects(
                spec["selector"], spec["template"]["metadata"].get("labels", {})
            ):
                wrong.append(f"{name_of(item)}: the selector does not match its own pods")
            if item["kind"] == "StatefulSet" and spec["serviceName"] not in names(objects, "Service"):
                wrong.append(f"{name_of(item)}: there is no service {spec['serviceName']}")
        if item["kind"] == "PodDisruptionBudget" and not any(_selects(spec["selector"], one) for one in labels):
            wrong.append(f"{name_of(item)}: selects no pod")
        if item["kind"] == "Service":
            selected = [
                template
                for template, one in zip(templates, labels, strict=True)
                if _selects({"matchLabels": spec["selector"]}, one)
            ]
            ports = {
                name
                for template in selected
                for container in containers(template["spec"])
                for port in container.get("ports", [])
                for name in (port.get("name"), port["containerPort"])
            }
            if not selected:
                wrong.append(f"{name_of(item)}: selects no pod")
            elif any(port.get("targetPort", port["port"]) not in ports for port in spec["ports"]):
                wrong.append(f"{name_of(item)}: leads to a port that its pods do not have")
        if item["kind"] == "NetworkPolicy":
            wrong += [
                f"{name_of(item)}: {'.'.join(path)} selects a label that no pod has: {key}"
                for path, selector in walk(item)
                if path and path[-1] == "podSelector"
                for key, fits in _known_labels(selector, labels)
                if not fits
            ]
    return wrong


def _known_labels(selector: Object, labels: list[dict[str, str]]) -> Iterator[tuple[str, bool]]:
    for key, value in selector.get("matchLabels", {}).items():
        yield f"{key}={value}", key in POD_LABELS_MADE_ELSEWHERE or any(one.get(key) == value for one in labels)
    for expression in selector.get("matchExpressions", []):
        key = expression["key"]
        yield key, key in POD_LABELS_MADE_ELSEWHERE or any(key in one for one in labels)


def references_exist(objects: list[Object]) -> list[str]:
    """Secrets and config maps with their keys, claims, accounts, roles, priority classes."""
    maps = {item["metadata"]["name"]: set(item.get("data", {})) for item in found(objects, "ConfigMap")}
    wrong = []
    for item in objects:
        for path, value in walk(item):
            where = f"{name_of(item)}: {'.'.join(path)}"
            match path[-1] if path else "":
                case "secretKeyRef" | "secretRef" | "secret" if isinstance(value, dict):
                    name = value.get("name") or value.get("secretName")
                    if name not in SECRETS_MADE_ELSEWHERE:
                        wrong.append(f"{where}: nobody makes the secret {name}")
                    elif "key" in value and value["key"] not in SECRETS_MADE_ELSEWHERE[name]:
                        wrong.append(f"{where}: the secret {name} has no key {value['key']}")
                case "configMapKeyRef" | "configMapRef" | "configMap" if isinstance(value, dict):
                    if value["name"] not in maps:
                        wrong.append(f"{where}: there is no config map {value['name']}")
                    elif "key" in value and value["key"] not in maps[value["name"]]:
                        wrong.append(f"{where}: the config map {value['name']} has no key {value['key']}")
                case "claimName" if value not in names(objects, "PersistentVolumeClaim"):
                    wrong.append(f"{where}: there is no claim {value}")
                case "serviceAccountName" if value not in names(objects, "ServiceAccount"):
                    wrong.append(f"{where}: there is no account {value}")
                case "priorityClassName" if value not in names(objects, "PriorityClass"):
                    wrong.append(f"{where}: there is no priority class {value}")
                case "roleRef" if value["name"] not in names(objects, value["kind"]):
                    wrong.append(f"{where}: there is no role {value['name']}")
        if item["kind"] == "RoleBinding":
            wrong += [
                f"{name_of(item)}: there is no account {subject['name']}"
                for subject in item["subjects"]
                if subject["name"] not in names(objects, "ServiceAccount")
            ]
        if item["kind"] == "Role":
            for rule in item["rules"]:
                known = {"secrets": set(SECRETS_MADE_ELSEWHERE), "configmaps": set(maps) | CONFIG_MAPS_MADE_ELSEWHERE}
                wrong += [
                    f"{name_of(item)}: there is no {name} among the {resource}"
                    for resource in rule["resources"]
                    for name in rule.get("resourceNames", [])
                    if resource in known and name not in known[resource]
                ]
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "kfp-launcher":
            wrong += _launcher(item)
    return wrong


def _launcher(item: Object) -> list[str]:
    """KFP's settings of object stores (backend/src/v2/config/s3.go of kubeflow/pipelines): types, and the secret."""
    store = yaml.safe_load(item["data"]["providers"])["s3"]["default"]
    types = {"endpoint": str, "region": str, "disableSSL": bool, "forcePathStyle": bool}
    wrong = [
        f"{name_of(item)}: {key} is no {kind.__name__}" for key, kind in types.items() if type(store[key]) is not kind
    ]
    secret = store["credentials"]["secretRef"]
    keys = SECRETS_MADE_ELSEWHERE.get(secret["secretName"], set())
    if {secret["accessKeyKey"], secret["secretKeyKey"]} != keys:
        wrong.append(f"{name_of(item)}: nobody makes the secret {secret['secretName']} with these keys")
    return wrong


def no_secret_data(objects: list[Object]) -> list[str]:
    """No Secret at all, no key in a variable, nothing that has the form of a key."""
    wrong = [f"{name_of(item)}: a secret in a manifest" for item in found(objects, "Secret")]
    for item in objects:
        for path, value in walk(item):
            given = str(value.get("name", "")) if isinstance(value, dict) and "value" in value else ""
            if re.search(r"KEY|SECRET|TOKEN|PASSWORD|WEBHOOK", given):
                wrong.append(f"{name_of(item)}: {given} has its value in the manifest")
            if isinstance(value, str) and re.search(
                r"AKIA[0-9A-Z]{12}|-----BEGIN|://[^/\s]+:[^/\s]+@|hooks\.slack\.com/services", value
            ):
                wrong.append(f"{name_of(item)}: {'.'.join(path)} looks like a key")
    return wrong


def least_privilege(objects: list[Object]) -> list[str]:
    wrong = []
    for item in objects:
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            wrong.append(f"{name_of(item)}: a right in the whole cluster")
        for rule in item.get("rules", []) if item["kind"] == "Role" else []:
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in rule[field]:
                    wrong.append(f"{name_of(item)}: any of {field}")
            if "secrets" in rule["resources"] and (not rule.get("resourceNames") or rule["verbs"] != ["get"]):
                wrong.append(f"{name_of(item)}: more than reading secrets by name")
            if {"pods/exec", "pods/attach", "roles", "rolebindings", "serviceaccounts/token"} & set(rule["resources"]):
                wrong.append(f"{name_of(item)}: a right that gives others")
        if item["kind"] == "RoleBinding" and item["roleRef"]["kind"] != "Role":
            wrong.append(f"{name_of(item)}: binds a role of the cluster")
    return wrong


def closed_network(objects: list[Object]) -> list[str]:
    """Runs' pods are closed in both directions, nothing opens to everywhere but the policy that pods ask for."""
    policies = {item["metadata"]["name"]: item["spec"] for item in found(objects, "NetworkPolicy")}
    wrong = [
        f"there is no policy that closes pods with the label {label}"
        for label in ("workflows.argoproj.io/workflow", "jobset.sigs.k8s.io/jobset-name", "katib.kubeflow.org/trial")
        if not any(
            spec["podSelector"] == {"matchExpressions": [{"key": label, "operator": "Exists"}]}
            and set(spec["policyTypes"]) == {"Ingress", "Egress"}
            for spec in policies.values()
        )
    ]
    if found(objects, "Namespace") and not any(
        "ingress" not in spec and "egress" not in spec and set(spec["policyTypes"]) == {"Ingress", "Egress"}
        for spec in policies.values()
    ):
        wrong.append("no policy closes the namespace")
    for name, spec in policies.items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                if not rule.get(peers):
                    wrong.append(f"NetworkPolicy/{name}: {direction} is open to everybody")
                for peer in rule.get(peers, []):
                    block = peer.get("ipBlock", {})
                    if name != "kubeface-internet" and block and ipaddress.ip_network(block["cidr"]).prefixlen < 8:
                        wrong.append(f"NetworkPolicy/{name}: {direction} is open to {block['cidr']}")
    return wrong


def settings_are_used(objects: list[Object]) -> list[str]:
    """The settings agree with each other, and nothing is left of the words that they replace."""
    settings = next(
        item["data"] for item in found(objects, "ConfigMap") if item["metadata"]["name"] == "kubeface-settings"
    )
    wrong = []
    match = re.fullmatch(r"(https?)://[^/:\s]+:\d+", settings["S3_ENDPOINT"])
    if not match:
        wrong.append(f"S3_ENDPOINT is not http(s)://host:port: {settings['S3_ENDPOINT']}")
    elif settings["S3_DISABLE_SSL"] != ("true" if match[1] == "http" else "false"):
        wrong.append(f"S3_DISABLE_SSL is {settings['S3_DISABLE_SSL']}, and S3_ENDPOINT begins with {match[1]}")
    for key, kind in (("GPU_NODE_SELECTOR", dict), ("GPU_TOLERATIONS", list)):
        if not isinstance(json.loads(settings[key]), kind):
            wrong.append(f"{key} is not a JSON {kind.__name__}")
    left = re.findall(
        r"\b(?:HOST:PORT|REGION|BOOL)\b(?! ?[:=])|: (?:STORE_NAMESPACE|STORE_CIDR|KFP_NAMESPACE)\b",
        yaml.safe_dump_all(objects),
    )
    return wrong + [f"{word} was not replaced by its setting" for word in left]


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
