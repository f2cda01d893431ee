"""The steps of a run as its Workflow object tells of them, the record that Argo itself keeps.

KFP's run details (2.17) follow it late and without the reason why a pod waits, and stand still once Argo compresses the
nodes, above 1 MiB. Nodes are wrapped: a task `align` is `align`, in it `align(0)`, `executor` and, for each attempt, a
pod `executor(n)`; a loop has `iteration-iterations(0:<shard>)` on the way to its tasks.
"""

import base64
import gzip
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.client import Client
from pipelines.cluster.kubectl import Kubectl
from pipelines.cluster.runs import Step, steps_of

RUN_LABEL = "pipeline/runid"
# What runs a task's container, argocompiler/container.go in kubeflow/pipelines: with retries, without, with metadata.
_EXECUTOR, _POD, _DRIVER = "system-container-executor", "system-container-impl", "system-container-driver"
_NEVER = datetime.max.replace(tzinfo=UTC)  # sorts what has not begun last
_STATES = {"Succeeded": "SUCCEEDED", "Failed": "FAILED", "Error": "FAILED", "Running": "RUNNING", "Pending": "PENDING"}


class Node(BaseModel):
    """A node of a Workflow, what is needed of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    displayName: str
    templateName: str = ""
    phase: str = "Pending"
    message: str = ""
    startedAt: datetime | None = None
    finishedAt: datetime | None = None
    inputs: dict[str, Any] = {}

    @property
    def path(self) -> list[str]:
        """Names of the tasks that it lies in, the numbers of attempts taken off."""
        return [re.sub(r"\(\d+\)$", "", part) for part in self.name.split(".")]

    @property
    def shard(self) -> int | None:
        """Number of the loop's iteration that it belongs to."""
        found = re.search(r"\.iteration-iterations\(\d+:(\d+)\)", self.name)
        return int(found[1]) if found else None

    def pod(self, workflow: str) -> str:
        """The name of its pod (POD_NAMES=v2 of Argo)."""
        return f"{workflow}-{self.templateName}-{self.id.removeprefix(workflow + '-')}"

    @property
    def is_cached(self) -> bool:
        """Whether KFP's cache served the task, so that none of its pods began."""
        given = self.inputs.get("parameters", [])
        return any(one["name"] == "cached-decision" and one.get("value") == "true" for one in given)


def find_workflow(kubectl: Kubectl, namespace: str, run: str) -> dict[str, Any] | None:
    """The Workflow object of a run; None where the cluster keeps it no more.

    Raises:
        KubefaceError: the Kubernetes API is not reached, or forbids it.
    """
    found = kubectl.objects("get", "workflows.argoproj.io", f"--namespace={namespace}", f"--selector={RUN_LABEL}={run}")
    return found[0] if found else None


def has_workflow(kubectl: Kubectl, namespace: str, run: str) -> bool | None:
    """Whether the cluster has the Workflow object of a run; None where kubectl cannot tell."""
    selector = f"--selector={RUN_LABEL}={run}"
    try:
        names = kubectl.run("get", "workflows.argoproj.io", f"--namespace={namespace}", selector, "--output=name")
    except KubefaceError:
        return None
    return bool(names.strip())


def is_workflow_over(workflow: Mapping[str, Any]) -> bool:
    """Whether a Workflow has ended."""
    return workflow.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error")


@dataclass(frozen=True, slots=True)
class RunSteps:
    """The steps of a run, in the order in which they began."""

    steps: tuple[Step, ...]
    has_workflow: bool | None  # whether Kubernetes has the run's Workflow; None where kubectl cannot tell


def steps_of_run(client: Client, run: Any, names: Collection[str]) -> RunSteps:
    """The steps of a run of `get_run`, as its Workflow object tells them where kubectl reaches it, else as KFP does."""
    try:
        workflow = find_workflow(client.cluster.kubectl(), client.run_namespace, run.run_id)
    except KubefaceError:  # there is no kubectl, or no right to look
        return RunSteps(tuple(steps_of(run, names)), None)
    if workflow is None:
        return RunSteps(tuple(steps_of(run, names)), False)
    return RunSteps(tuple(steps_of_workflow(workflow, names)), True)


def nodes_of(workflow: Mapping[str, Any]) -> list[Node]:
    """The nodes of a Workflow, compressed or not."""
    status = workflow.get("status", {})
    if packed := status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    else:
        nodes = status.get("nodes") or {}
    return [Node.model_validate(node) for node in nodes.values()]


def steps_of_workflow(workflow: Mapping[str, Any], names: Collection[str]) -> list[Step]:
    """The run's steps in the order in which they began, those that were not reached last.

    Args:
        workflow: of `find_workflow`.
        names: what the pipeline's steps are called.
    """
    nodes = nodes_of(workflow)
    tasks: dict[tuple[str, int | None], Node] = {}
    for node in nodes:
        task = node.displayName.removesuffix("-driver")
        if task not in names:
            continue
        if node.templateName.endswith(_EXECUTOR) or (task, node.shard) not in tasks:
            tasks[task, node.shard] = node
    workflow_name = str(workflow["metadata"]["name"])
    steps = [_step(workflow_name, task, node, nodes) for (task, _), node in tasks.items()]
    return sorted(steps, key=lambda step: (step.started is None, step.started or _NEVER))


def _step(workflow: str, task: str, node: Node, nodes: Collection[Node]) -> Step:
    pods = sorted(_pods(task, node, nodes), key=lambda pod: pod.startedAt or _NEVER)
    driving = node.templateName.endswith(_DRIVER)
    skipped = node.phase in ("Omitted", "Skipped")
    state = "CACHED" if node.is_cached else "SKIPPED" if skipped else _STATES.get(node.phase, "PENDING")
    if state in ("RUNNING", "SUCCEEDED") and (driving or (pods and pods[-1].phase == "Pending")):
        state = "PENDING"  # its driver is at work, or its pod waits
    said = [pod.message for pod in reversed(pods) if pod.message] or [node.message]
    return Step(
        task,
        state,
        None if skipped else node.startedAt,
        None if skipped or driving else node.finishedAt,
        tuple(pod.pod(workflow) for pod in pods),
        " ".join(said[0].split()),
        node.shard,
        max(0, len(pods) - 1),
    )


def _pods(task: str, node: Node, nodes: Collection[Node]) -> Iterator[Node]:
    """The pods of a task's container, one for each attempt."""
    for one in nodes:
        is_pod = one.templateName.endswith(_POD) and one.displayName != "executor"
        if is_pod and one.shard == node.shard and task in one.path[-2:]:
            yield one
