"""A Kubernetes API server on loopback, as much of it as kubectl and the project need.

Discovery, namespaced and cluster-wide objects, server-side apply with field managers, dry runs, deletion, access
reviews, a bearer token, TLS; objects are held to the published schemas. What differs from a real server: lists are
merged whole (atomic), nothing is defaulted but a Service's address, no controller runs, nothing waits for finalizers.
"""

import copy
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.stubs.kubernetes_objects import (
    BUILT_IN,
    REASONS,
    VERSION,
    Object,
    Refusal,
    Resource,
    check_immutable,
    conflict,
    key_of,
    leaves,
    managed_fields,
    managers_of,
    new_object,
    paths_of,
    remove_value,
    set_value,
    validate,
    value_at,
    without_managers,
)
from tests.support.stubs.tls import Tls

TOKEN = "stub-token-of-the-tests"
HANG = -1  # as a fault's status: no answer at all
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


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
        return self.objects.get(key_of(resource, namespace, name))

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
            before = self.objects.get(key_of(resource, namespace, name))
            return (200 if before else 201), self._apply(resource, item, manager, force, dry, strict=strict)
        if verb == "create":
            item = json.loads(body)
            name = item["metadata"]["name"]
            if key_of(resource, namespace, name) in self.objects:
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
            if plural == key_of(resource, "", "")[0]
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
        found = self.objects.get(key_of(resource, namespace, name))
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
        """Merges an object as a server does for `kubectl apply --server-side`, lists as a whole."""
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "")
        if check and resource not in self.custom:
            validate(item, resource, strict)
        live = self.objects.get(key_of(resource, namespace, name))
        wanted = dict(leaves(item))
        owned = {entry["manager"]: paths_of(entry["fieldsV1"]) for entry in managers_of(live)}
        conflicts = [
            (other, path)
            for other, paths in sorted(owned.items())
            for path in sorted(paths & wanted.keys())
            if other != manager and value_at(live, path) != wanted[path]
        ]
        if conflicts and not force:
            raise conflict(resource, conflicts)
        merged = copy.deepcopy(live) if live else new_object(item)
        for path in owned.get(manager, set()) - wanted.keys():
            if not any(path in paths for other, paths in owned.items() if other != manager):
                remove_value(merged, path)
        for path, value in wanted.items():
            set_value(merged, path, value)
        for other, path in conflicts:
            owned[other].discard(path)
        if resource.kind == "Service":
            merged["spec"].setdefault("clusterIP", "10.0.0.1")
        if live and check:
            check_immutable(resource, live, merged)
        if live and without_managers(live) == without_managers(merged) and owned.get(manager) == set(wanted):
            return live
        owned[manager] = set(wanted)
        merged["metadata"]["managedFields"] = [
            managed_fields(resource, one, paths) for one, paths in sorted(owned.items())
        ]
        if not dry:
            self.revision += 1
            merged["metadata"]["resourceVersion"] = str(self.revision)
            self.objects[key_of(resource, namespace, name)] = merged
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
