"""A Kubeflow Pipelines API server (v2beta1) on loopback, as much of it as the project and kfp.Client ask for.

Pipelines, versions (uploads as multipart), experiments, runs with their tasks, recurring runs, pods' logs; a token, a
cookie, TLS, several namespaces, and faults. What differs from a real server: nothing runs, filters know EQUALS only.
"""

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.stubs.tls import Tls

Object = dict[str, Any]
Answer = tuple[int, Object | str]
IDS = {
    "pipelines": "pipeline_id",
    "experiments": "experiment_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
}
VERBS = {
    "terminate": {"state": "CANCELING"},
    "retry": {"state": "RUNNING"},
    "enable": {"status": "ENABLED"},
    "disable": {"status": "DISABLED"},
}
HANG = -1  # as a fault's status: no answer for a while
DROP = -2  # the connection is closed without an answer


@dataclass
class Fault:
    """An answer instead of the right one, to requests whose `METHOD path` the pattern is found in."""

    pattern: str
    status: int
    times: int = 1_000_000
    message: str = "the stub was told to fail"
    after: bool = False  # the work is done, and only the answer is lost


@dataclass
class State:
    """What the server holds, knows and has been asked."""

    token: str = ""
    cookie: str = ""
    multi_user: bool = False
    login: bool = False  # requests without the cookie are sent to a page to sign in, as Dex's proxy does
    hang_seconds: float = 3.0
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # METHOD path
    authorizations: list[str] = field(default_factory=list)
    pipelines: list[Object] = field(default_factory=list)
    versions: list[Object] = field(default_factory=list)
    experiments: list[Object] = field(default_factory=list)
    runs: list[Object] = field(default_factory=list)
    recurring: list[Object] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)  # by pod
    collected: list[str] = field(default_factory=list)  # ids of runs whose Workflow went with its recurring run

    def writes(self) -> list[str]:
        """The requests that were to change something."""
        return [line for line in self.asked if not line.startswith("GET ")]


class KfpApi:
    """The server; `with KfpApi() as api:` has it answer at `api.url` while the block lasts."""

    def __init__(self, tls: Tls | None = None, **state: Any) -> None:
        self.state = State(**state)
        handler = type("Handler", (_Handler,), {"state": self.state})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.server_context().wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> "KfpApi":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fire(self, name: str, state: str = "RUNNING") -> str:
        """Has the recurring run of a name start a run, whose id is returned."""
        recurring = next(one for one in self.state.recurring if one["display_name"] == name)
        copied = ("recurring_run_id", "runtime_config", "pipeline_version_reference", "experiment_id")
        run = {key: recurring[key] for key in copied} | {"run_id": str(uuid.uuid4()), "display_name": f"{name}-1"}
        self.state.runs.append(run | {"state": state, "created_at": _now()})
        return str(run["run_id"])

    def finish(self, run: str, *tasks: Object, state: str = "SUCCEEDED") -> None:
        """Gives a run its tasks and its end."""
        found = next(entry for entry in self.state.runs if entry["run_id"] == run)
        found |= {"state": state, "finished_at": _now(), "run_details": {"task_details": list(tasks)}}


def step(name: str, seconds: float = 60.0, state: str = "SUCCEEDED", **more: Any) -> list[Object]:
    """The tasks that KFP 2 shows for one step: its driver, the step, and in it what runs the container.

    `more` are `cached` (the executor is skipped), `start` (seconds after the run's), `error` (message), `pod`.
    """
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=more.get("start", 0))
    pod = more.get("pod", f"pod-{name}-{uuid.uuid4().hex[:6]}")

    def task(name: str, state: str, pod: str, **rest: Any) -> Object:
        times = {"start_time": _text(start), "end_time": _text(start + timedelta(seconds=seconds))}
        return {"display_name": name, "state": state, "task_id": uuid.uuid4().hex, "pod_name": pod, **times, **rest}

    error = {"error": {"code": 13, "message": more["error"]}} if "error" in more else {}
    return [
        task(f"{name}-driver", "SUCCEEDED", f"{pod}-driver", child_tasks=[{"pod_name": f"{pod}-dag"}]),
        task(name, state, f"{pod}-dag", child_tasks=[{"pod_name": pod}]),
        task("executor", "SKIPPED" if more.get("cached") else state, pod, **error),
    ]


@cache
def _documents(package: bytes) -> list[Object]:
    return list(yaml.load_all(package, yaml.CSafeLoader))


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _take(self) -> None:
        method, parts = self.command, urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{method} {parts.path}"
        self.state.asked.append(line)
        self.state.authorizations.append(self.headers.get("Authorization", ""))
        fault = next((one for one in self.state.faults if one.times and re.search(one.pattern, line)), None)
        if fault:
            fault.times -= 1
            if fault.after:
                self._route(method, parts.path)
            self._fail(fault)
            return
        status, answer = self._refused() or self._route(method, parts.path)
        self._answer(status, answer)

    do_GET = do_POST = do_DELETE = _take

    def _fail(self, fault: Fault) -> None:
        if fault.status == HANG:
            time.sleep(self.state.hang_seconds)
        if fault.status < 0:
            self.close_connection = True
            return
        self._answer(fault.status, {"code": 13, "message": fault.message, "error": fault.message, "details": []})

    def _answer(self, status: int, answer: Object | str) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        if status == 302:
            self.send_header("Location", "/dex/auth?client_id=kubeflow")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _refused(self) -> Answer | None:
        if self.state.login and self.state.cookie not in self.headers.get("Cookie", "no cookie"):
            return 302, {}
        if self.state.cookie and self.state.cookie not in self.headers.get("Cookie", ""):
            return 401, {"message": "no session"}
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            return 401, {"message": f"Request not authenticated: {self.headers.get('Authorization')}"}
        return None

    def _route(self, method: str, path: str) -> Answer:
        for pattern, action in self.ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return action(self, *found.groups())
        return 404, {"message": f"Not Found: {path}"}

    def _healthz(self) -> Answer:
        return 200, {"multi_user": self.state.multi_user, "pipeline_store": "database"}

    def _wrong_namespace(self, kind: str, namespace: str | None) -> Answer | None:
        if kind != "pipelines" and bool(namespace) != self.state.multi_user:
            return 400, {"message": "Invalid input error: namespace is for multi-user mode, which needs it"}
        return None

    def _list(self, key: str, entries: list[Object]) -> Answer:
        for predicate in json.loads(self.query.get("filter") or "{}").get("predicates", []):
            assert predicate["operation"] in (1, "EQUALS"), predicate
            entries = [one for one in entries if one.get(predicate["key"]) == predicate["stringValue"]]
        if self.query.get("sort_by") == "created_at desc":
            entries = sorted(entries, key=lambda one: one["created_at"], reverse=True)
        first, size = int(self.query.get("page_token") or 0), int(self.query.get("page_size") or 10)
        page = copy.deepcopy(entries[first : first + size])
        answer: Object = {key: page, "total_size": len(entries)} if page else {}
        if first + size < len(entries):
            answer["next_page_token"] = str(first + size)
        return 200, answer

    def _list_kind(self, kind: str) -> Answer:
        key = "recurringRuns" if kind == "recurringruns" else kind
        return self._wrong_namespace(kind, self.query.get("namespace")) or self._list(key, self._entries(kind))

    def _entries(self, kind: str) -> list[Object]:
        found: list[Object] = getattr(self.state, kind.removesuffix("runs") if kind == "recurringruns" else kind)
        return found

    def _create(self, kind: str) -> Answer:
        body, entries = json.loads(self.data or b"{}"), self._entries(kind)
        if kind == "experiments" and (wrong := self._wrong_namespace(kind, body.get("namespace"))):
            return wrong
        if kind in ("pipelines", "experiments") and any(e["display_name"] == body["display_name"] for e in entries):
            return 409, {"code": 6, "message": f"Already exist error: {body['display_name']} exists"}
        more = {IDS[kind]: str(uuid.uuid4()), "created_at": _now()}
        if kind == "runs":
            more["state"] = "PENDING"
        elif kind == "recurringruns":
            more["status"] = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        entries.append(body | more)
        return 200, entries[-1]

    def _one(self, kind: str, name: str, verb: str | None = None) -> Answer:
        """Gives, changes or deletes a run or a recurring run."""
        found = next((one for one in self._entries(kind) if one[IDS[kind]] == name), None)
        if not found:
            return 404, {"message": f"ResourceNotFoundError: {kind} {name} not found."}
        if verb == "retry" and found["state"] != "FAILED":
            return 400, {"message": "Workflow must be Failed/Error to retry"}
        if verb:
            found |= VERBS[verb]
        elif self.command == "DELETE":
            self._entries(kind).remove(found)
            if self.query.get("propagation_policy") != "ORPHAN":
                runs = [one for one in self.state.runs if one.get("recurring_run_id") == name]
                self.state.collected += [one["run_id"] for one in runs]
        return 200, found

    def _list_versions(self, pipeline: str) -> Answer:
        found = [one for one in self.state.versions if one["pipeline_id"] == pipeline]
        return self._list("pipeline_versions", found)

    def _get_version(self, pipeline: str, version: str) -> Answer:
        found = [one for one in self.state.versions if one["pipeline_version_id"] == version]
        return (200, found[0]) if found and found[0]["pipeline_id"] == pipeline else (404, {"message": "no version"})

    def _upload_version(self) -> Answer:
        pipeline, name = self.query["pipelineid"], self.query["name"]
        if not any(one["pipeline_id"] == pipeline for one in self.state.pipelines):
            return 404, {"message": f"ResourceNotFoundError: Pipeline {pipeline} not found."}
        if any(one["pipeline_id"] == pipeline and one["display_name"] == name for one in self.state.versions):
            return 409, {"message": f"Already exist error: version {name} exists"}
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = message_from_bytes(head + self.data)
        (part,) = [inner for inner in message.walk() if not inner.is_multipart()]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        documents = _documents(content)
        spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]} if documents[1:] else documents[0]
        entry = {"pipeline_id": pipeline, "display_name": name, "pipeline_spec": spec, "created_at": _now()}
        self.state.versions.append(entry | {"pipeline_version_id": str(uuid.uuid4())})
        return 200, self.state.versions[-1]

    def _log(self, run: str, pod: str) -> Answer:
        if pod in self.state.logs:
            return 200, self.state.logs[pod]
        return 500, {"error_message": f"Failed to read logs for run {run}", "error_details": "pods not found"}

    ROUTES: ClassVar[dict[str, Callable[..., Answer]]] = {
        r"GET /apis/v2beta1/healthz": _healthz,
        r"GET /apis/v2beta1/(pipelines|experiments|runs|recurringruns)": _list_kind,
        r"POST /apis/v2beta1/(pipelines|experiments|runs|recurringruns)": _create,
        r"POST /apis/v2beta1/pipelines/upload_version": _upload_version,
        r"GET /apis/v2beta1/pipelines/([^/]+)/versions": _list_versions,
        r"GET /apis/v2beta1/pipelines/([^/]+)/versions/([^/]+)": _get_version,
        r"GET /apis/v2beta1/(runs)/([^/:]+)": _one,
        r"POST /apis/v2beta1/(runs)/([^/:]+):(retry|terminate)": _one,
        r"POST /apis/v2beta1/(recurringruns)/([^/:]+):(enable|disable)": _one,
        r"DELETE /apis/v2beta1/(recurringruns)/([^/:]+)": _one,
        r"GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log": _log,
    }
