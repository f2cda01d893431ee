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
    VERSION,
    Fields,
    Object,
    Refusal,
    Resource,
    check_immutable,
    conflict,
    leaves,
    new_object,
    remove_value,
    set_value,
    validate,
    value_at,
)
from tests.support.stubs.tls import Tls

TOKEN = "stub-token-of-the-tests"
HANG = -1  # as a fault's status: no answer at all
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
Key = tuple[str, str, str]


@dataclass
class KubernetesApi:
    """The server while the block lasts."""

    tls: Tls
    custom: tuple[Resource, ...] = ()  # kinds besides the built-in ones; they have no schema
    objects: dict[Key, Object] = field(default_factory=dict)  # by plural.group, namespace and name
    owned: dict[Key, dict[str, Fields]] = field(default_factory=dict)  # the fields of each manager
    writes: list[tuple[str, str]] = field(default_factory=list)  # verb and path of what changed an object
    forbidden: set[tuple[str, str]] = field(default_factory=set)  # verb and plural
    faults: list[tuple[str, int]] = field(default_factory=list)  # pattern of "METHOD path", and status or HANG
    revision: int = 100

    def __enter__(self) -> "KubernetesApi":
        self._lock, self._end = threading.RLock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.socket = self.tls.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, token: str = TOKEN, ca: Path | None = None, url: str = "") -> Path:
        """Writes a kubeconfig with one context, `stub`, that leads here."""
        url = url or f"https://127.0.0.1:{self._server.server_address[1]}"
        config = {
            "clusters": [{"name": "stub", "cluster": {"server": url, "certificate-authority": str(ca or self.tls.ca)}}],
            "users": [{"name": "stub", "user": {"token": token}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "current-context": "stub",
        }
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}), "utf-8")
        return path

    def put(self, *found: Object, manager: str = "somebody") -> None:
        """Places objects as if another had applied them; they are held to no schema."""
        for item in found:
            kind = item["apiVersion"], item["kind"]
            resource = next(one for one in self._resources() if (one.api_version, one.kind) == kind)
            self._apply(resource, copy.deepcopy(item), manager, force=True, dry=False)

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """A live object, or None."""
        resource = next(one for one in self._resources() if one.kind == kind)
        return self.objects.get(resource.key(namespace, name))

    def names(self) -> set[str]:
        """Kind and name of every live object, as ConfigMap/settings."""
        return {f"{item['kind']}/{item['metadata']['name']}" for item in self.objects.values()}

    # -- answers

    def answer(self, method: str, url: str, body: bytes, headers: Any) -> tuple[int, Object]:
        """Status and JSON for one request."""
        for pattern, status in self.faults:
            if re.search(pattern, f"{method} {url}"):
                if status == HANG:
                    self._end.wait(60)
                raise Refusal(abs(status))
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401)
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        found = self._discovery(parts.path)
        if found is not None:
            return 200, found
        resource, namespace, name = self._target(parts.path)
        with self._lock:
            return self._object(method, resource, namespace, name, query, body)

    def _resources(self) -> tuple[Resource, ...]:
        return BUILT_IN + self.custom

    def _discovery(self, path: str) -> Object | None:
        prefixes = {one.prefix: one for one in self._resources()}
        if path == "/version":
            major, minor, _ = VERSION.split(".")
            return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}", "platform": "linux/amd64"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if path == "/apis":
            grouped = [one for one in prefixes.values() if one.group]
            versions = [{"groupVersion": one.api_version, "version": one.version} for one in grouped]
            groups = [
                {"name": one.group, "versions": [version], "preferredVersion": version}
                for one, version in zip(grouped, versions, strict=True)
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/openapi/v3":
            where = "/openapi/v3{}?hash=" + str(len(self._resources()))
            return {"paths": {prefix[1:]: {"serverRelativeURL": where.format(prefix)} for prefix in prefixes}}
        if path.startswith("/openapi/v3/"):
            return self._openapi(path.removeprefix("/openapi/v3"))
        if path not in prefixes:
            return None
        verbs = ["get", "list", "watch", *VERBS.values()]
        kinds = [
            {"name": one.plural, "singularName": one.kind.lower(), "namespaced": one.namespaced, "kind": one.kind}
            | {"verbs": ["create"] if one.kind == "SelfSubjectAccessReview" else verbs}
            for one in self._resources()
            if one.prefix == path
        ]
        head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": prefixes[path].api_version}
        return head | {"resources": kinds}

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
            space = r"(?:/namespaces/([^/]+))?" if one.namespaced else "()"
            if found := re.fullmatch(f"{one.prefix}{space}/{one.plural}(?:/([^/]+))?", path):
                return one, found[1] or "", found[2] or ""
        raise Refusal(404)

    def _object(
        self, method: str, resource: Resource, namespace: str, name: str, query: dict[str, str], body: bytes
    ) -> tuple[int, Object]:
        verb = VERBS.get(method, "get" if name else "list")
        if (verb, resource.plural) in self.forbidden:
            raise Refusal(
                403, f'{resource.plural}.{resource.group} "{name}" is forbidden: User "stub" cannot {verb} it'
            )
        if resource.kind == "SelfSubjectAccessReview":
            return 201, self._review(json.loads(body))
        if verb == "list":
            return 200, self._list(resource, namespace, query)
        key = resource.key(namespace, name)
        dry, strict = query.get("dryRun") == "All", query.get("fieldValidation") == "Strict"
        if verb in ("get", "delete"):
            if key not in self.objects:
                raise Refusal(404, f'{resource.plural} "{name}" not found')
            return 200, self.objects[key] if verb == "get" else self._delete(resource, key, dry)
        if namespace and ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, f'namespaces "{namespace}" not found')
        assert verb == "patch", "kubectl applies on the server"
        item = yaml.safe_load(body)
        if namespace:
            item["metadata"].setdefault("namespace", namespace)
        if resource not in self.custom:
            validate(item, resource, strict)
        force = query.get("force") == "true"
        return (200 if key in self.objects else 201), self._apply(resource, item, query["fieldManager"], force, dry)

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
            if plural == resource.key("", "")[0]
            and namespace in ("", where)
            and named in ("", name)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        metadata = {"resourceVersion": str(self.revision)}
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": items,
        }

    def _delete(self, resource: Resource, key: Key, dry: bool) -> Object:
        uid = self.objects[key]["metadata"]["uid"]
        if not dry:
            inside = [one for one in self.objects if resource.kind == "Namespace" and one[1] == key[2]]
            for one in (key, *inside):
                del self.objects[one]
                self.owned.pop(one, None)
            self.writes.append(("delete", f"{resource.kind}/{key[2]}"))
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"uid": uid}}

    def _apply(self, resource: Resource, item: Object, manager: str, force: bool, dry: bool) -> Object:
        """Merges an object as a server does for `kubectl apply --server-side`, lists as a whole."""
        key = resource.key(item["metadata"].get("namespace", ""), item["metadata"]["name"])
        live, wanted = self.objects.get(key), dict(leaves(item))
        owned = {other: set(paths) for other, paths in self.owned.get(key, {}).items() if live}
        conflicts = [
            (other, path)
            for other, paths in sorted(owned.items())
            for path in sorted(paths & wanted.keys())
            if other != manager and value_at(live, path) != wanted[path]
        ]
        if conflicts and not force:
            raise conflict(resource, conflicts)
        merged = copy.deepcopy(live) if live else new_object(item)
        others = set().union(*(paths for other, paths in owned.items() if other != manager))
        for path in owned.get(manager, set()) - wanted.keys() - others:
            remove_value(merged, path)
        for path, value in wanted.items():
            set_value(merged, path, value)
        for other, path in conflicts:
            owned[other].discard(path)
        if resource.kind == "Service":
            merged["spec"].setdefault("clusterIP", "10.0.0.1")
        if live:
            check_immutable(resource, live, merged)
            if live == merged and owned.get(manager) == set(wanted):
                return live
        owned[manager] = set(wanted)
        entry = {"operation": "Apply", "apiVersion": resource.api_version, "fieldsType": "FieldsV1", "fieldsV1": {}}
        merged["metadata"]["managedFields"] = [{"manager": one, **entry} for one in sorted(owned)]
        if not dry:
            self.revision += 1
            merged["metadata"]["resourceVersion"] = str(self.revision)
            self.objects[key], self.owned[key] = merged, owned
            self.writes.append(("update" if live else "create", f"{resource.kind}/{key[2]}"))
        return merged


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that refuse the certificate or give up waiting are what some tests want."""


class _Handler(BaseHTTPRequestHandler):
    api: KubernetesApi
    protocol_version = "HTTP/1.1"
    timeout = 30
    # In two small packets an answer takes 40 ms: Nagle's algorithm waits for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer = self.api.answer(self.command, self.path, body, self.headers)
        except Refusal as refusal:
            status, answer = refusal.code, refusal.status
        except Exception as error:  # a server answers 500 to what it was not made for
            status, answer = 500, Refusal(500, f"the stub fails: {error!r}").status
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at `writes`."""
