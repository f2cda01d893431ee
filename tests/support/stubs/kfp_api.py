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
    bodies: list[Object] = field(default_factory=list)  # of every POST with JSON
    authorizations: list[str] = field(default_factory=list)
    pipelines: list[Object] = field(default_factory=list)
    versions: list[Object] = field(default_factory=list)
    experiments: list[Object] = field(default_factory=list)
    runs: list[Object] = field(default_factory=list)
    recurring: list[Object] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)  # by pod

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

    def finish(self, run: str, *tasks: Object, state: str = "SUCCEEDED") -> None:
        """Gives a run its tasks and its end."""
        found = next(entry for entry in self.state.runs if entry["run_id"] == run)
        found |= {"state": state, "finished_at": _now(), "run_details": {"task_details": list(tasks)}}


def step(name: str, seconds: float = 60.0, state: str = "SUCCEEDED", **more: Any) -> list[Object]:
    """The tasks that KFP 2 shows for one step: its driver, the step, and in it what runs the container.

    Args:
        name: key of the task in the compiled pipeline.
        seconds: that it took.
        state: of it; a step that the cache serves has `cached=True`, and its executor is skipped.
        more: `cached`, `start` (seconds after the run's), `error` (message), `pod`.
    """
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=more.get("start", 0))
    end = start + timedelta(seconds=seconds)
    pod = more.get("pod", f"pod-{name}-{uuid.uuid4().hex[:6]}")
    times = {"create_time": _text(start), "start_time": _text(start)}
    times |= {"end_time": _text(end)} if state not in ("RUNNING", "PENDING") else {}
    task: Object = {
        "display_name": name,
        "state": state,
        "task_id": uuid.uuid4().hex,
        "pod_name": f"{pod}-dag",
        **times,
    }
    task["child_tasks"] = [{"pod_name": pod}]
    inner = {"display_name": "executor", "state": "SKIPPED" if more.get("cached") else state, "pod_name": pod, **times}
    inner |= {"task_id": uuid.uuid4().hex}
    if more.get("error"):
        inner["error"] = {"code": 13, "message": more["error"]}
    driver = {"display_name": f"{name}-driver", "state": "SUCCEEDED", "pod_name": f"{pod}-driver", **times}
    return [driver | {"child_tasks": [{"pod_name": f"{pod}-dag"}], "task_id": uuid.uuid4().hex}, task, inner]


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

    def _refused(self) -> tuple[int, Object] | None:
        if self.state.login and self.state.cookie not in self.headers.get("Cookie", "no cookie"):
            return 302, {}
        if self.state.cookie and self.state.cookie not in self.headers.get("Cookie", ""):
            return 401, {"message": "no session"}
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            return 401, {"message": f"Request not authenticated: {self.headers.get('Authorization')}"}
        return None

    def _route(self, method: str, path: str) -> tuple[int, Object | str]:
        for pattern, action in self.ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                answer: tuple[int, Object | str] = action(self, *found.groups())
                return answer
        return 404, {"message": f"Not Found: {path}"}

    def _json(self) -> Object:
        body: Object = json.loads(self.data or b"{}")
        self.state.bodies.append(body)
        return body

    def _healthz(self) -> tuple[int, Object]:
        return 200, {"multi_user": self.state.multi_user, "pipeline_store": "database"}

    def _wrong_namespace(self, namespace: str | None) -> tuple[int, Object] | None:
        if bool(namespace) != self.state.multi_user:
            return 400, {"message": "Invalid input error: namespace is for multi-user mode, which needs it"}
        return None

    # pipelines

    def _list(self, key: str, entries: list[Object]) -> tuple[int, Object]:
        predicates = json.loads(self.query.get("filter") or "{}").get("predicates", [])
        for predicate in predicates:
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

    def _list_pipelines(self) -> tuple[int, Object]:
        return self._list("pipelines", self.state.pipelines)

    def _create_pipeline(self) -> tuple[int, Object]:
        body = self._json()
        if any(one["display_name"] == body["display_name"] for one in self.state.pipelines):
            return 409, {"code": 6, "message": f"Already exist error: pipeline {body['display_name']} exists"}
        self.state.pipelines.append(body | {"pipeline_id": str(uuid.uuid4()), "created_at": _now()})
        return 200, self.state.pipelines[-1]

    def _list_versions(self, pipeline: str) -> tuple[int, Object]:
        found = [one for one in self.state.versions if one["pipeline_id"] == pipeline]
        return self._list("pipeline_versions", found)

    def _get_version(self, pipeline: str, version: str) -> tuple[int, Object]:
        found = [one for one in self.state.versions if one["pipeline_version_id"] == version]
        return (200, found[0]) if found and found[0]["pipeline_id"] == pipeline else (404, {"message": "no version"})

    def _upload_version(self) -> tuple[int, Object]:
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

    # experiments

    def _list_experiments(self) -> tuple[int, Object]:
        wrong = self._wrong_namespace(self.query.get("namespace"))
        return wrong or self._list("experiments", self.state.experiments)

    def _create_experiment(self) -> tuple[int, Object]:
        body = self._json()
        if wrong := self._wrong_namespace(body.get("namespace")):
            return wrong
        if any(one["display_name"] == body["display_name"] for one in self.state.experiments):
            return 409, {"message": "Already exist error: experiment exists"}
        self.state.experiments.append(body | {"experiment_id": str(uuid.uuid4()), "created_at": _now()})
        return 200, self.state.experiments[-1]

    # runs

    def _create_run(self) -> tuple[int, Object]:
        body = self._json()
        more = {"run_id": str(uuid.uuid4()), "state": "PENDING", "created_at": _now()}
        self.state.runs.append(body | more)
        return 200, self.state.runs[-1]

    def _list_runs(self) -> tuple[int, Object]:
        wrong = self._wrong_namespace(self.query.get("namespace"))
        return wrong or self._list("runs", self.state.runs)

    def _run(self, run: str) -> Object | None:
        return next((one for one in self.state.runs if one["run_id"] == run), None)

    def _get_run(self, run: str) -> tuple[int, Object]:
        found = self._run(run)
        return (200, found) if found else (404, {"message": f"ResourceNotFoundError: Run {run} not found."})

    def _end_run(self, run: str, verb: str) -> tuple[int, Object]:
        found = self._run(run)
        if not found:
            return 404, {"message": f"ResourceNotFoundError: Run {run} not found."}
        if verb == "retry" and found["state"] not in ("FAILED", "CANCELED"):
            return 400, {"message": "Workflow must be Failed/Error to retry"}
        found["state"] = "CANCELING" if verb == "terminate" else "RUNNING"
        return 200, {}

    def _log(self, run: str, pod: str) -> tuple[int, Object | str]:
        if self._run(run) and pod in self.state.logs:
            return 200, self.state.logs[pod]
        return 500, {"error_message": f"Failed to read logs for run {run}", "error_details": "pods not found"}

    # recurring runs

    def _create_recurring(self) -> tuple[int, Object]:
        body = self._json()
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        more = {"recurring_run_id": str(uuid.uuid4()), "status": status, "created_at": _now()}
        self.state.recurring.append(body | more)
        return 200, self.state.recurring[-1]

    def _list_recurring(self) -> tuple[int, Object]:
        wrong = self._wrong_namespace(self.query.get("namespace"))
        return wrong or self._list("recurringRuns", self.state.recurring)

    def _change_recurring(self, one: str, verb: str) -> tuple[int, Object]:
        found = [entry for entry in self.state.recurring if entry["recurring_run_id"] == one]
        if not found:
            return 404, {"message": f"ResourceNotFoundError: recurring run {one} not found."}
        found[0]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
        return 200, {}

    def _delete_recurring(self, one: str) -> tuple[int, Object]:
        left = [entry for entry in self.state.recurring if entry["recurring_run_id"] != one]
        gone, self.state.recurring[:] = len(left) < len(self.state.recurring), left
        return (200, {}) if gone else (404, {"message": f"ResourceNotFoundError: recurring run {one} not found."})

    ROUTES: ClassVar[dict[str, Callable[..., Any]]] = {
        r"GET /apis/v2beta1/healthz": _healthz,
        r"GET /apis/v2beta1/pipelines": _list_pipelines,
        r"POST /apis/v2beta1/pipelines": _create_pipeline,
        r"POST /apis/v2beta1/pipelines/upload_version": _upload_version,
        r"GET /apis/v2beta1/pipelines/([^/]+)/versions": _list_versions,
        r"GET /apis/v2beta1/pipelines/([^/]+)/versions/([^/]+)": _get_version,
        r"GET /apis/v2beta1/experiments": _list_experiments,
        r"POST /apis/v2beta1/experiments": _create_experiment,
        r"GET /apis/v2beta1/runs": _list_runs,
        r"POST /apis/v2beta1/runs": _create_run,
        r"GET /apis/v2beta1/runs/([^/:]+)": _get_run,
        r"POST /apis/v2beta1/runs/([^/:]+):(retry|terminate)": _end_run,
        r"GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log": _log,
        r"GET /apis/v2beta1/recurringruns": _list_recurring,
        r"POST /apis/v2beta1/recurringruns": _create_recurring,
        r"POST /apis/v2beta1/recurringruns/([^/:]+):(enable|disable)": _change_recurring,
        r"DELETE /apis/v2beta1/recurringruns/([^/:]+)": _delete_recurring,
    }
