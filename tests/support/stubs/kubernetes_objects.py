"""Kubernetes objects as the stub of an API server holds them: kinds, schemas, field managers, refusals."""

import copy
import re
import time
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

Object = dict[str, Any]
VERSION = "1.34.0"
utils.schema_contents = cache(utils.schema_contents)  # 1.5 MB of JSON that it reads anew for every object


@dataclass(frozen=True)
class Resource:
    """A kind that the server knows."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """Path of its group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


BUILT_IN = (
    Resource("", "v1", "Namespace", "namespaces", False),
    Resource("", "v1", "Node", "nodes", False),
    Resource("", "v1", "ConfigMap", "configmaps"),
    Resource("", "v1", "Secret", "secrets"),
    Resource("", "v1", "Service", "services"),
    Resource("", "v1", "ServiceAccount", "serviceaccounts"),
    Resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    Resource("", "v1", "Pod", "pods"),
    Resource("", "v1", "ResourceQuota", "resourcequotas"),
    Resource("", "v1", "LimitRange", "limitranges"),
    Resource("apps", "v1", "Deployment", "deployments"),
    Resource("apps", "v1", "StatefulSet", "statefulsets"),
    Resource("batch", "v1", "Job", "jobs"),
    Resource("batch", "v1", "CronJob", "cronjobs"),
    Resource("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    Resource("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    Resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    Resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Resource("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", False),
    Resource("storage.k8s.io", "v1", "StorageClass", "storageclasses", False),
    Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False),
    Resource("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", False),
)


def thing(kind: str, name: str, api_version: str = "v1", namespace: str = "", **fields: object) -> Object:
    """A manifest."""
    metadata: Object = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


# What a real server refuses to change (validation of the built-in kinds).
IMMUTABLE = {"Job": ("spec", "template"), "PersistentVolumeClaim": ("spec",)}


class Refusal(Exception):
    """A Status object as the answer."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": {"causes": causes or []},
            "code": code,
        }


REASONS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden by the test"),
    404: ("NotFound", "the server could not find the requested resource"),
    409: ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
    500: ("InternalError", "an internal error of the test"),
    503: ("ServiceUnavailable", "etcd is not within reach"),
}


def key_of(resource: Resource, namespace: str, name: str) -> tuple[str, str, str]:
    return f"{resource.plural}.{resource.group}".rstrip("."), namespace if resource.namespaced else "", name


def validate(item: Object, resource: Resource, strict: bool) -> None:
    try:
        kubernetes_validate.validate(item, VERSION, strict=strict)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(map(str, error.path))
        if "Additional properties" in error.message:
            field_name = re.findall(r"'([^']+)' w", error.message)
            unknown = ", ".join(f'unknown field "{".".join(filter(None, (path, one)))}"' for one in field_name)
            raise Refusal(400, "BadRequest", f"strict decoding error: {unknown}") from error
        raise Refusal(
            422,
            "Invalid",
            f'{resource.kind}.{resource.group} "{item["metadata"]["name"]}" is invalid: {path}: {error.message}',
        ) from error


def check_immutable(resource: Resource, live: Object, merged: Object) -> None:
    path = IMMUTABLE.get(resource.kind)
    if path and value_at(live, path) != value_at(merged, path):
        name, where = merged["metadata"]["name"], ".".join(path)
        raise Refusal(
            422,
            "Invalid",
            f'{resource.kind}.{resource.group} "{name}" is invalid: {where}: Invalid value: field is immutable',
        )


def conflict(resource: Resource, conflicts: list[tuple[str, tuple[str, ...]]]) -> Refusal:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{other}" using {resource.api_version}',
            "field": "." + ".".join(path),
        }
        for other, path in conflicts
    ]
    listed = ", ".join(f'conflict with "{other}": .{".".join(path)}' for other, path in conflicts)
    many = "conflict" if len(conflicts) == 1 else "conflicts"
    return Refusal(409, "Conflict", f"Apply failed with {len(conflicts)} {many}: {listed}", causes)


def new_object(item: Object) -> Object:
    metadata: Object = {"name": item["metadata"]["name"], "uid": str(uuid.uuid4()), "resourceVersion": "0"}
    metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if "namespace" in item["metadata"]:
        metadata["namespace"] = item["metadata"]["namespace"]
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}


IDENTITY = {
    ("apiVersion",),
    ("kind",),
    *(("metadata", name) for name in ("name", "namespace", "creationTimestamp", "uid", "resourceVersion")),
}


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Path and value of each field that is no mapping; an empty mapping and a list are one field."""
    if isinstance(value, dict) and (value or not path):
        return [
            leaf
            for name, inner in value.items()
            if (*path, name) not in IDENTITY and (*path, name) != ("metadata", "managedFields")
            for leaf in leaves(inner, (*path, name))
        ]
    return [(path, value)]


def managers_of(live: Object | None) -> list[Object]:
    return list(live["metadata"].get("managedFields", ())) if live else []


def managed_fields(resource: Resource, manager: str, paths: set[tuple[str, ...]]) -> Object:
    """An entry of metadata.managedFields."""
    return {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": resource.api_version,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields_of(paths),
    }


def fields_of(paths: set[tuple[str, ...]]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    return tree


def paths_of(tree: Object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not tree:
        return {path} if path else set()
    return {leaf for name, inner in tree.items() for leaf in paths_of(inner, (*path, name.removeprefix("f:")))}


def value_at(item: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    return item


def set_value(item: Object, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        item = item.setdefault(name, {})
    item[path[-1]] = value


def remove_value(item: Object, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        item = item.get(name, {})
    item.pop(path[-1], None)


def without_managers(item: Object) -> Object:
    """The object without what every write changes."""
    bare = copy.deepcopy(item)
    bare["metadata"].pop("managedFields", None)
    bare["metadata"].pop("resourceVersion", None)
    return bare
