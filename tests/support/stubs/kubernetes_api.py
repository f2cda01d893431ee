"""A Kubernetes API server on loopback, as much of it as kubectl and the project need.

Discovery, namespaced and cluster-wide objects, server-side apply with field managers, dry runs, deletion, access
reviews, a bearer token, TLS; objects are held to the published schemas. What differs from a real server: lists are
merged whole (atomic), nothing is defaulted but a Service's address, no controller runs, nothing waits for finalizers.
"""

import copy
import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml
from kubernetes_validate import utils

from tests.support.stubs.tls import Tls

Object = dict[str, Any]
TOKEN = "stub-token-of-the-tests"
VERSION = "1.34.0"
HANG = -1  # as a fault's status: no answer at all
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]

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


@dataclass
class KubernetesApi:
    """The server while the block lasts.

    Args:
        tls: certificate to serve with.
        custom: kinds besides the built-in ones; they have no schema.
    """

    tls: Tls
    custom: tuple[Resource, ...] = ()
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)  # by plural.group, namespace and name
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, and path with its query
    writes: list[tuple[str, str]] = field(default_factory=list)  # verb and path of what changed an object
    forbidden: set[tuple[str, str]] = field(default_factory=set)  # verb and plural
    faults: list[tuple[str, int]] = field(default_factory=list)  # pattern of "METHOD path", and status or HANG
    revision: int = 100

    def __enter__(self) -> "KubernetesApi":
        self._lock, self._end = threading.RLock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.socket = self.tls.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, path: Path, token: str = TOKEN, ca: Path | None = None, url: str = "") -> Path:
        """Writes a kubeconfig with one context, `stub`, that leads here."""
        cluster = {"server": url or self.url, "certificate-authority": str(ca or self.tls.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stub", "cluster": cluster}],
            "users": [{"name": "stub", "user": {"token": token}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "current-context": "stub",
        }
        path.write_text(yaml.safe_dump(config), "utf-8")
        return path

    def put(self, *found: Object, manager: str = "somebody") -> None:
        """Places objects as if another had applied them; they are held to no schema."""
        for item in found:
            self._apply(self._resource_of(item), copy.deepcopy(item), manager, True, False, check=False)

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """A live object, or None."""
        resource = next(one for one in self._resources() if one.kind == kind)
        return self.objects.get(_key(resource, namespace, name))

    def names(self) -> set[str]:
        """Kind and name of every live object, as ConfigMap/settings."""
        return {f"{item['kind']}/{item['metadata']['name']}" for item in self.objects.values()}

    # -- answers

    def answer(self, method: str, url: str, body: bytes, headers: Any) -> tuple[int, Object]:
        """Status and JSON for one request."""
        self.requests.append((method, url))
        for pattern, status in self.faults:
            if re.search(pattern, f"{method} {url}"):
                if status == HANG:
                    self._end.wait(60)
                raise Refusal(abs(status), *REASONS.get(status, ("InternalError", "a fault of the test")))
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, *REASONS[401])
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        found = self._discovery(parts.path)
        if found is not None:
            return 200, found
        resource, namespace, name = self._target(parts.path)
        with self._lock:
            return self._object(method, resource, namespace, name, query, body, headers.get("Content-Type", ""))

    def _resources(self) -> tuple[Resource, ...]:
        return BUILT_IN + self.custom

    def _resource_of(self, item: Object) -> Resource:
        for resource in self._resources():
            if (resource.api_version, resource.kind) == (item["apiVersion"], item["kind"]):
                return resource
        raise AssertionError(f"the stub does not know {item['apiVersion']} {item['kind']}")

    def _discovery(self, path: str) -> Object | None:
        prefixes = {one.prefix: one for one in self._resources()}
        if path == "/version":
            major, minor, _ = VERSION.split(".")
            return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}", "platform": "linux/amd64"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if path == "/apis":
            groups = [
                {"name": one.group, "versions": [version], "preferredVersion": version}
                for one in prefixes.values()
                if one.group
                for version in [{"groupVersion": one.api_version, "version": one.version}]
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/openapi/v3":
            paths = {
                prefix[1:]: {"serverRelativeURL": f"/openapi/v3{prefix}?hash={len(self._resources())}"}
                for prefix in prefixes
            }
            return {"paths": paths}
        if path.startswith("/openapi/v3/"):
            return self._openapi(path.removeprefix("/openapi/v3"))
        if path in prefixes:
            kinds = [
                {
                    "name": one.plural,
                    "singularName": one.kind.lower(),
                    "namespaced": one.namespaced,
                    "kind": one.kind,
                    "verbs": ["create"] if one.kind == "SelfSubjectAccessReview" else VERBS,
                }
                for one in self._resources()
                if one.prefix == path
            ]
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": prefixes[path].api_version,
                "resources": kinds,
            }
        return None

    def _openapi(self, prefix: str) -> Object:
        """What kubectl looks for there: that PATCH takes fieldValidation and dryRun."""
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")
        ]
        paths = {}
        for one in self._resources():
            if one.prefix == prefix:
                middle = "/namespaces/{namespace}" if one.namespaced else ""
                gvk = {"group": one.group, "version": one.version, "kind": one.kind}
                operation = {"parameters": parameters, "x-kubernetes-group-version-kind": gvk, "responses": {}}
                paths[f"{prefix}{middle}/{one.plural}/{{name}}"] = {"patch": operation}
        return {"openapi": "3.0.0", "info": {"title": "stub", "version": VERSION}, "paths": paths}

    def _target(self, path: str) -> tuple[Resource, str, str]:
        """Resource, namespace and name that a path names."""
        for one in self._resources():
            if not path.startswith(one.prefix + "/"):
                continue
            rest = path.removeprefix(one.prefix + "/").split("/")
            namespace = ""
            if one.namespaced and rest[0] == "namespaces" and len(rest) > 2:
                namespace, rest = rest[1], rest[2:]
            if rest[0] == one.plural and len(rest) <= 2:
                return one, namespace, rest[1] if len(rest) == 2 else ""
        raise Refusal(404, *REASONS[404])

    def _object(
        self, method: str, resource: Resource, namespace: str, name: str, query: dict[str, str], body: bytes, kind: str
    ) -> tuple[int, Object]:
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch"}.get(
            method, method.lower()
        )
        self._allow(verb, resource, namespace, name)
        if resource.kind == "SelfSubjectAccessReview":
            return 201, self._review(json.loads(body))
        if verb == "list":
            return 200, self._list(resource, namespace, query)
        if verb == "get":
            return 200, self._live(resource, namespace, name)
        dry, strict = query.get("dryRun") == "All", query.get("fieldValidation") == "Strict"
        if verb == "delete":
            return 200, self._delete(resource, namespace, name, dry)
        if namespace and ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        if verb == "patch" and kind.startswith("application/apply-patch"):
            item = yaml.safe_load(body)
            item["metadata"].setdefault("namespace", namespace) if namespace else None
            manager, force = query["fieldManager"], query.get("force") == "true"
            before = self.objects.get(_key(resource, namespace, name))
            return (200 if before else 201), self._apply(resource, item, manager, force, dry, strict=strict)
        if verb == "create":
            item = json.loads(body)
            name = item["metadata"]["name"]
            if _key(resource, namespace, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{resource.plural} "{name}" already exists')
            manager = query.get("fieldManager", "stub")
            return 201, self._apply(resource, item, manager, True, dry, strict=strict)
        raise Refusal(405, "MethodNotAllowed", f"the stub does not do {verb} with {kind}")

    def _allow(self, verb: str, resource: Resource, namespace: str, name: str) -> None:
        if (verb, resource.plural) in self.forbidden:
            raise Refusal(
                403,
                "Forbidden",
                f'{resource.plural}.{resource.group} "{name}" is forbidden: User "stub" cannot {verb} resource '
                f'"{resource.plural}" in API group "{resource.group}" in the namespace "{namespace}"',
            )

    def _review(self, item: Object) -> Object:
        asked = item["spec"]["resourceAttributes"]
        item["status"] = {"allowed": (asked["verb"], asked["resource"]) not in self.forbidden}
        return item

    def _list(self, resource: Resource, namespace: str, query: dict[str, str]) -> Object:
        wanted = dict(one.split("=", 1) for one in query.get("labelSelector", "").split(",") if one)
        named = query.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [
            item
            for (plural, where, name), item in sorted(self.objects.items())
            if plural == _key(resource, "", "")[0]
            and namespace in ("", where)
            and named in ("", name)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": {"resourceVersion": str(self.revision)},
            "items": items,
        }

    def _live(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self.objects.get(_key(resource, namespace, name))
        if found is None:
            raise Refusal(404, "NotFound", f'{resource.plural} "{name}" not found')
        return found

    def _delete(self, resource: Resource, namespace: str, name: str, dry: bool) -> Object:
        found = self._live(resource, namespace, name)
        if not dry:
            gone = {found["metadata"]["uid"]}
            for key, item in list(self.objects.items()):
                owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences", ())}
                if item is found or owners & gone or (resource.kind == "Namespace" and key[1] == name):
                    del self.objects[key]
            self.writes.append(("delete", f"{resource.kind}/{name}"))
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"uid": found["metadata"]["uid"]}}

    # -- server-side apply

    def _apply(
        self,
        resource: Resource,
        item: Object,
        manager: str,
        force: bool,
        dry: bool,
        strict: bool = False,
        check: bool = True,
    ) -> Object:
        """Merges an object the way `kubectl apply --server-side` has it done, lists as a whole."""
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "")
        if check and resource not in self.custom:
            _validate(item, resource, strict)
        live = self.objects.get(_key(resource, namespace, name))
        wanted = dict(_leaves(item))
        owned = {entry["manager"]: _paths(entry["fieldsV1"]) for entry in _managers(live)}
        conflicts = [
            (other, path)
            for other, paths in sorted(owned.items())
            for path in sorted(paths & wanted.keys())
            if other != manager and _at(live, path) != wanted[path]
        ]
        if conflicts and not force:
            raise _conflict(resource, conflicts)
        merged = copy.deepcopy(live) if live else _new(item)
        for path in owned.get(manager, set()) - wanted.keys():
            if not any(path in paths for other, paths in owned.items() if other != manager):
                _remove(merged, path)
        for path, value in wanted.items():
            _set(merged, path, value)
        for other, path in conflicts:
            owned[other].discard(path)
        if resource.kind == "Service":
            merged["spec"].setdefault("clusterIP", "10.0.0.1")
        if live and check:
            _check_immutable(resource, live, merged)
        unchanged = live is not None and _bare(live) == _bare(merged) and owned.get(manager) == set(wanted)
        if unchanged and live is not None:
            return live
        owned[manager] = set(wanted)
        merged["metadata"]["managedFields"] = [
            {
                "manager": one,
                "operation": "Apply",
                "apiVersion": resource.api_version,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "fieldsType": "FieldsV1",
                "fieldsV1": _fields(paths),
            }
            for one, paths in sorted(owned.items())
        ]
        if not dry:
            self.revision += 1
            merged["metadata"]["resourceVersion"] = str(self.revision)
            self.objects[_key(resource, namespace, name)] = merged
            self.writes.append(("update" if live else "create", f"{resource.kind}/{name}"))
        return merged


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that refuse the certificate or give up waiting are what some tests want."""


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        # In two small packets an answer takes 40 ms: Nagle's algorithm waits for the acknowledgement of the first.
        wbufsize = -1
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, answer = api.answer(self.command, self.path, body, self.headers)
            except Refusal as refusal:
                status, answer = refusal.code, refusal.status
            except Exception as error:  # a server answers 500 to what it was not made for
                status, answer = 500, Refusal(500, "InternalError", f"the stub fails: {error!r}").status
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests look at `requests`."""

    return Handler


def _key(resource: Resource, namespace: str, name: str) -> tuple[str, str, str]:
    return f"{resource.plural}.{resource.group}".rstrip("."), namespace if resource.namespaced else "", name


def _validate(item: Object, resource: Resource, strict: bool) -> None:
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


def _check_immutable(resource: Resource, live: Object, merged: Object) -> None:
    path = IMMUTABLE.get(resource.kind)
    if path and _at(live, path) != _at(merged, path):
        name, where = merged["metadata"]["name"], ".".join(path)
        raise Refusal(
            422,
            "Invalid",
            f'{resource.kind}.{resource.group} "{name}" is invalid: {where}: Invalid value: field is immutable',
        )


def _conflict(resource: Resource, conflicts: list[tuple[str, tuple[str, ...]]]) -> Refusal:
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


def _new(item: Object) -> Object:
    metadata: Object = {"name": item["metadata"]["name"], "uid": str(uuid.uuid4()), "resourceVersion": "0"}
    metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if "namespace" in item["metadata"]:
        metadata["namespace"] = item["metadata"]["namespace"]
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}


_IDENTITY = {
    ("apiVersion",),
    ("kind",),
    *(("metadata", name) for name in ("name", "namespace", "creationTimestamp", "uid", "resourceVersion")),
}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Path and value of each field that is no mapping; an empty mapping and a list are one field."""
    if isinstance(value, dict) and (value or not path):
        return [
            leaf
            for name, inner in value.items()
            if (*path, name) not in _IDENTITY and (*path, name) != ("metadata", "managedFields")
            for leaf in _leaves(inner, (*path, name))
        ]
    return [(path, value)]


def _managers(live: Object | None) -> list[Object]:
    return list(live["metadata"].get("managedFields", ())) if live else []


def _fields(paths: set[tuple[str, ...]]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    return tree


def _paths(tree: Object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not tree:
        return {path} if path else set()
    return {leaf for name, inner in tree.items() for leaf in _paths(inner, (*path, name.removeprefix("f:")))}


def _at(item: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _set(item: Object, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        item = item.setdefault(name, {})
    item[path[-1]] = value


def _remove(item: Object, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        item = item.get(name, {})
    item.pop(path[-1], None)


def _bare(item: Object) -> Object:
    """The object without what every write changes."""
    bare = copy.deepcopy(item)
    bare["metadata"].pop("managedFields", None)
    bare["metadata"].pop("resourceVersion", None)
    return bare
