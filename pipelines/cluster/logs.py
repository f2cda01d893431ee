"""The command `logs`: what the steps of a run printed, or print."""

import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kfp_server_api

from kubeface.runtime.errors import KubefaceError, require
from pipelines.cluster.client import Client, Unreachable, connect
from pipelines.cluster.request import FollowFlag, RunId
from pipelines.cluster.runs import OVER, Step, containers, get_run, spec_of_run
from pipelines.cluster.watch import exit_on_interrupt, poll
from pipelines.cluster.workflow import RUN_LABEL, find_workflow, is_workflow_over, steps_of_run, steps_of_workflow

NODE_ANNOTATION = "workflows.argoproj.io/node-name"  # <workflow>.<task>.<task>… of a pod
# Of `kubectl logs --timestamps`, in nanoseconds of a fixed width; the kubelet's own complaints have no time.
TIMED_LINE = re.compile(r"(?P<time>\d{4}-\d\d-\d\dT\S+) (?P<text>.*)")
LAUNCHER_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:")  # how lines of klog begin, which KFP's launcher writes with
LAST_SECONDS = 30.0  # that the rest of a log may take once its run has ended


def logs(run: RunId, *, step: str = "", follow: FollowFlag = False) -> None:
    """Prints what the steps of a run printed. Followed, it prints what the running steps print until the run has ended,
    or the step that is named.

    Args:
        step: The only step to print; empty for all.
    """
    if follow:
        with exit_on_interrupt():
            _follow(run, step)
        return
    with connect() as client:
        found = get_run(client, run)
        names = containers(spec_of_run(client, found))
        only = _key_of(step, names)
        wanted = [one for one in steps_of_run(client, found, names).steps if one.name == (only or one.name)]
        wanted = [one for one in wanted if one.state not in ("CACHED", "SKIPPED", "PENDING")]
        require(bool(wanted), f"run {run} has no log of {step or 'any step'}: it has not begun, or the cache served it")
        failures = []
        for one in wanted:
            print(f"── {one.label} ({one.state})")
            try:
                print(client.cluster.without_secrets(read_log(client, run, one)).rstrip("\n"))
            except KubefaceError as error:
                failures.append(error)
                print(f"(no log: {error})")
        if len(failures) == len(wanted):
            raise failures[0]


def _key_of(step: str, names: Mapping[str, Any]) -> str:
    """The key of the step that is meant by a name; empty for all. Raises KubefaceError if there is none."""
    known = {shown: key for key, task in names.items() for shown in (key, task["taskInfo"]["name"])}
    require(not step or step in known, f"step '{step}' is unknown: use one of {', '.join(names)}")
    return known.get(step, "")


def last_words(client: Client, run_id: str, step: Step) -> str:
    """The error in a step's log, else its last line before those of KFP's launcher; KFP's message where there is no
    log."""
    try:
        lines = [line for line in read_log(client, run_id, step).splitlines() if line and not LAUNCHER_LINE.match(line)]
    except KubefaceError:
        return step.error or "it left no line; 'make logs' may have more"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return client.cluster.without_secrets((errors or lines or [step.error or "its log is empty"])[-1])


def read_log(client: Client, run_id: str, step: Step) -> str:
    """A step's log from KFP, which reads the pod's or what was kept of it; else the pod's through kubectl."""
    for pod in reversed(step.pods):
        try:
            # Served beside the API proper: run_log_server.go in kubeflow/pipelines. The client has no method for it.
            answer = client.api.call_api(
                "/apis/v1alpha1/runs/{run}/nodes/{node}/log",
                "GET",
                {"run": run_id, "node": pod},
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
            )
            return bytes(answer.data).decode("utf-8", "replace")
        except kfp_server_api.ApiException as error:
            if error.status in (401, 403):
                raise
    # KFP asks for the pod by its node's id, which is not its name since Argo 3.4 (POD_NAMES=v2).
    pods = list(_pods(client, run_id, step.name))
    require(bool(pods), f"the pods of {step.name} are gone, and KFP kept no log of them")
    namespace = f"--namespace={client.run_namespace}"
    texts = [client.cluster.kubectl().run("logs", pod, "--container=main", namespace) for pod in pods]
    return "\n".join(texts)


def _pods(client: Client, run_id: str, step: str) -> Iterator[str]:
    found = client.cluster.kubectl().objects(
        "get", "pods", f"--namespace={client.run_namespace}", f"--selector={RUN_LABEL}={run_id}"
    )
    for pod in found:
        path = pod["metadata"].get("annotations", {}).get(NODE_ANNOTATION, "").split(".")
        if step in path:
            yield pod["metadata"]["name"]


def _follow(run: str, step: str) -> None:
    reader, streams = _StepReader(run, step), _Streams()
    skipped: set[tuple[str, int | None]] | None = None
    for view in poll(reader.read):
        if skipped is None:  # what had ended by then is printed where it was asked for
            ended = {(one.name, one.shard) for one in view.steps if one.state in OVER}
            skipped = set() if step else ended
        for one in view.steps:
            if one.pods and one.state != "PENDING" and (one.name, one.shard) not in skipped:
                streams.follow(view.client, one)
        if view.is_over:
            streams.join()
            what = f"step {step} of run {run}" if step else f"run {run}"
            require(streams.has_begun, f"{what} has ended: 'make logs' without FOLLOW prints what it printed")
            return


@dataclass(frozen=True, slots=True)
class _View:
    """The steps whose logs are followed."""

    client: Client
    steps: Sequence[Step]
    is_over: bool  # whether no more of them come


class _StepReader:
    """Reads the steps to follow off the run's Workflow object, again and again."""

    def __init__(self, run: str, step: str) -> None:
        self._run, self._step = run, step
        self._names: list[str] = []
        self._only = ""

    def read(self, client: Client) -> _View:
        """The steps as they stand. Raises KubefaceError if kubectl shows no Workflow of the run."""
        if not self._names:
            tasks = containers(spec_of_run(client, get_run(client, self._run)))
            self._only, self._names = _key_of(self._step, tasks), list(tasks)
        try:
            workflow = find_workflow(client.cluster.kubectl(), client.run_namespace, self._run)
        except KubefaceError as error:
            raise Unreachable(f"the pods of run {self._run} are not reached: {error}") from None
        require(
            workflow is not None,
            f"kubectl finds no Workflow of run {self._run} in namespace {client.run_namespace}: its pods are gone, or "
            "are elsewhere; 'make logs' without FOLLOW prints what Kubeflow Pipelines kept",
        )
        assert workflow is not None  # noqa: S101 - see above
        steps = steps_of_workflow(workflow, self._names)
        wanted = [one for one in steps if one.name == (self._only or one.name)]
        is_over = is_workflow_over(workflow) or (bool(self._only) and self._has_ended(steps))
        return _View(client, wanted, is_over)

    def _has_ended(self, steps: Sequence[Step]) -> bool:
        """Whether the step that is named, or its last shard, has."""
        named = [one for one in steps if one.name == self._only]
        if not named or any(one.state not in (*OVER, "CACHED") for one in named):
            return False
        later = self._names[self._names.index(self._only) + 1 :]
        after_loop = any(one.shard is None and one.name in later for one in steps)
        return after_loop or all(one.shard is None for one in named)


class _Streams:
    """Prints the logs of pods as they grow, each in a thread of its own."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.Lock()

    @property
    def has_begun(self) -> bool:
        """Whether there was a log to follow."""
        return bool(self._streams)

    def follow(self, client: Client, step: Step) -> None:
        """Sees to it that the log of the step's last pod is printed; one that broke off goes on after its last line."""
        pod = step.pods[-1]
        stream = self._streams.get(pod)
        if stream is None:
            stream = self._streams[pod] = _Stream(client, step, self._print)
        if not stream.is_complete or step.state == "RUNNING":
            stream.go_on()

    def join(self) -> None:
        """Waits for the rest of the logs."""
        for stream in self._streams.values():
            stream.join()

    def _print(self, step: Step, text: str | None) -> None:
        """Prints a line, or that the log begins; with its step in front where several logs may be read."""
        several = step.shard is not None or sum(stream.is_going for stream in self._streams.values()) > 1
        with self._lock:
            if text is not None:
                print(f"{step.label} | {text}" if several else text, flush=True)
            elif not several:
                print(f"── {step.label}", flush=True)


class _Stream:
    """The log of a pod, line by line; what was printed is not printed again after a break."""

    def __init__(self, client: Client, step: Step, show: Callable[[Step, str | None], None]) -> None:
        self._cluster, self._show, self._step = client.cluster, show, step
        self._command = ["logs", step.pods[-1], f"--namespace={client.run_namespace}", "--container=main"]
        self._command += ["--follow", "--timestamps"]
        self._last = ""  # time of the last line that was printed
        self._has_begun = False
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self.is_complete = False  # whether its container had ended when it did

    @property
    def is_going(self) -> bool:
        """Whether lines may come."""
        return self._thread is not None and self._thread.is_alive()

    def go_on(self) -> None:
        """Reads on, unless it does."""
        if not self.is_going:
            self._thread = threading.Thread(target=self._copy, name=self._command[1], daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits for its end, for a while."""
        if self._thread is not None:
            self._thread.join(LAST_SECONDS)
        if self._process is not None:
            self._process.kill()

    def _copy(self) -> None:
        since = [f"--since-time={self._last}"] if self._last else []
        with tempfile.TemporaryFile("w+") as complaints:
            self._process = self._cluster.kubectl().start(*self._command, *since, stderr=complaints)
            with self._process as process:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                self._print_lines(process.stdout)
            self.is_complete = process.returncode == 0  # it fails while the container has not begun

    def _print_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            found = TIMED_LINE.fullmatch(line.rstrip("\n"))
            if found and found["time"] <= self._last:
                continue
            if not self._has_begun:
                self._has_begun = True
                self._show(self._step, None)
            self._last = found["time"] if found else self._last
            self._show(self._step, self._cluster.without_secrets(found["text"] if found else line.rstrip("\n")))
