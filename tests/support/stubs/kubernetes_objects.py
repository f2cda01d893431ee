"""Kubernetes objects as the stub of an API server holds them: kinds, schemas, fields, refusals."""

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

Object = dict[str, Any]
Path = tuple[str, ...]
Fields = set[Path]
VERSION = "1.34.0"
utils.schema_contents = cache(utils.schema_contents)  # 1.5 MB of JSON that it reads anew for every object


@dataclass(frozen=True)
class Resource:
    """A kind that the server knows."""

    api_version: str
    kind: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def plural(self) -> str:
        return re.sub("(?<=s)$", "e", re.sub("y$", "ie", self.kind.lower())) + "s"

    @property
    def prefix(self) -> str:
        """Path of its group and version."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}"

    def key(self, namespace: str, name: str) -> tuple[str, str, str]:
        return f"{self.plural}.{self.group}".rstrip("."), namespace if self.namespaced else "", name


_NAMESPACED = {
    "v1": "ConfigMap Secret Service ServiceAccount PersistentVolumeClaim Pod ResourceQuota LimitRange",
    "apps/v1": "Deployment StatefulSet",
    "batch/v1": "Job CronJob",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding",
    "networking.k8s.io/v1": "NetworkPolicy",
    "policy/v1": "PodDisruptionBudget",
}
_CLUSTER_WIDE = {
    "v1": "Namespace Node",
    "scheduling.k8s.io/v1": "PriorityClass",
    "storage.k8s.io/v1": "StorageClass",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition",
    "authorization.k8s.io/v1": "SelfSubjectAccessReview",
}
BUILT_IN = tuple(
    Resource(api_version, kind, kinds is _NAMESPACED)
    for kinds in (_NAMESPACED, _CLUSTER_WIDE)
    for api_version, named in kinds.items()
    for kind in named.split()
)


def thing(kind: str, name: str, api_version: str = "v1", namespace: str = "", **fields: object) -> Object:
    """A manifest."""
    metadata: Object = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


# What a real server refuses to change (validation of the built-in kinds).
IMMUTABLE = {"Job": ("spec", "template"), "PersistentVolumeClaim": ("spec",)}
REASONS = {
    400: ("BadRequest", ""),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden by the test"),
    404: ("NotFound", "the server could not find the requested resource"),
    409: ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
    422: ("Invalid", ""),
    500: ("InternalError", "an internal error of the test"),
    503: ("ServiceUnavailable", "etcd is not within reach"),
}


class Refusal(Exception):
    """A Status object as the answer."""

    def __init__(self, code: int, message: str = "", causes: list[Object] | None = None) -> None:
        super().__init__(message)
        reason, usual = REASONS[code]
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        self.status |= {"message": message or usual, "reason": reason, "details": {"causes": causes or []}}


def _invalid(resource: Resource, item: Object, why: str) -> Refusal:
    return Refusal(422, f'{resource.kind}.{resource.group} "{item["metadata"]["name"]}" is invalid: {why}')


def validate(item: Object, resource: Resource, strict: bool) -> None:
    """Refuses what the published schema does."""
    try:
        kubernetes_validate.validate(item, VERSION, strict=strict)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(map(str, error.path))
        if "Additional properties" in error.message:
            names = re.findall(r"'([^']+)' w", error.message)
            unknown = ", ".join(f'unknown field "{".".join(filter(None, (path, one)))}"' for one in names)
            raise Refusal(400, f"strict decoding error: {unknown}") from error
        raise _invalid(resource, item, f"{path}: {error.message}") from error


def check_immutable(resource: Resource, live: Object, merged: Object) -> None:
    """Refuses another value of what may not change."""
    path = IMMUTABLE.get(resource.kind)
    if path and value_at(live, path) != value_at(merged, path):
        raise _invalid(resource, merged, f"{'.'.join(path)}: Invalid value: field is immutable")


def conflict(resource: Resource, conflicts: list[tuple[str, Path]]) -> Refusal:
    """What is said to who sets fields of other managers."""
    messages = [(f'conflict with "{other}"', "." + ".".join(path)) for other, path in conflicts]
    causes = [
        {"reason": "FieldManagerConflict", "message": f"{text} using {resource.api_version}", "field": where}
        for text, where in messages
    ]
    listed = ", ".join(f"{text}: {where}" for text, where in messages)
    many = "conflict" if len(conflicts) == 1 else "conflicts"
    return Refusal(409, f"Apply failed with {len(conflicts)} {many}: {listed}", causes)


def new_object(item: Object) -> Object:
    """What a server makes of a manifest that it does not have yet, without its fields."""
    metadata = {name: item["metadata"][name] for name in ("name", "namespace") if name in item["metadata"]}
    metadata |= {"uid": str(uuid.uuid4()), "resourceVersion": "0"}
    metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}


_SERVERS_OWN = {"name", "namespace", "creationTimestamp", "uid", "resourceVersion", "managedFields"}
UNOWNED = {("apiVersion",), ("kind",), *(("metadata", name) for name in _SERVERS_OWN)}


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Path and value of each field that is no mapping; an empty mapping and a list are one field."""
    if not isinstance(value, dict) or (path and not value):
        yield path, value
        return
    for name, inner in value.items():
        if (*path, name) not in UNOWNED:
            yield from leaves(inner, (*path, name))


def value_at(item: Any, path: Path) -> Any:
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    return item


def set_value(item: Object, path: Path, value: Any) -> None:
    for name in path[:-1]:
        item = item.setdefault(name, {})
    item[path[-1]] = value


def remove_value(item: Object, path: Path) -> None:
    for name in path[:-1]:
        item = item.get(name, {})
    item.pop(path[-1], None)
