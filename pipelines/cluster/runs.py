"""Runs of Kubeflow Pipelines: what they are started with, the state of their steps, how long those took."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any

import kfp_server_api

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.client import Client
from pipelines.cluster.versions import Spec, Version, spec_of

OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
UNFINISHED = ("PENDING", "RUNNING", "PAUSED")
CANCELING = "CANCELING"  # of a run whose steps are being stopped
# KFP 2 on Argo Workflows shows three tasks of a step: <step>-driver, <step>, and in it `executor` (argocompiler/
# container.go in kubeflow/pipelines), which is skipped where the cache serves the step.
EXECUTOR = "executor"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run or a recurring run is started with."""

    version: Version
    parameters: Mapping[str, Any]  # those that are absent have their defaults
    root: str | None  # address below which KFP keeps the artifacts; None for KFP's own choice
    service_account: str  # of the steps; empty for KFP's own

    @classmethod
    def of(cls, item: Any) -> "RunConfig":
        """That of a run or recurring run as the client returns it. Raises KubefaceError if it names no version of a
        pipeline."""
        reference, config = item.pipeline_version_reference, item.runtime_config
        if not reference:
            raise KubefaceError(f"{item.display_name} names no version of a pipeline: submit it again")
        return cls(
            Version(str(reference.pipeline_id), str(reference.pipeline_version_id)),
            dict((config and config.parameters) or {}),
            (config and config.pipeline_root) or None,
            item.service_account or "",
        )

    def arguments(self) -> dict[str, Any]:
        """The arguments of the client's `run_pipeline` and `create_recurring_run`."""
        return {
            "params": dict(self.parameters),
            "pipeline_id": self.version.pipeline_id,
            "version_id": self.version.version_id,
            "pipeline_root": self.root,
            "service_account": self.service_account or None,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a run that runs a container; one for each shard in the loop over shards."""

    name: str  # key of the task in the compiled pipeline
    state: str  # PENDING, RUNNING, SUCCEEDED, FAILED, SKIPPED, CANCELED …, or CACHED
    started: datetime | None  # None while it is not
    ended: datetime | None
    pods: tuple[str, ...]  # those that ran its container, the last attempt's last
    error: str  # what is said of its failure, or of why its pod waits
    shard: int | None = None  # its number in the loop over shards
    retries: int = 0  # that were made because a pod was lost

    @property
    def label(self) -> str:
        """Its name for people, with its shard."""
        return self.name if self.shard is None else f"{self.name} (shard {self.shard})"

    @property
    def seconds(self) -> float | None:
        """How long it took or has taken by now; None where it has not begun."""
        if self.started is None:
            return None
        return max(0.0, ((self.ended or datetime.now(UTC)) - self.started).total_seconds())


def get_run(client: Client, run: str) -> Any:
    """The run with its tasks. Raises KubefaceError if there is none with this id."""
    try:
        return client.get_run(run)
    except kfp_server_api.ApiException as error:
        if error.status in (400, 404):
            raise KubefaceError(f"run {run} does not exist: 'make submit' and the UI show a run's id") from None
        raise


def spec_of_run(client: Client, run: Any) -> Spec:
    """The compiled pipeline that a run was made from. Raises KubefaceError if KFP does not hold it."""
    if run.pipeline_spec:
        return dict(run.pipeline_spec.get("pipeline_spec", run.pipeline_spec))
    return spec_of(client, RunConfig.of(run).version)


def containers(spec: Spec) -> dict[str, dict[str, Any]]:
    """The tasks of a compiled pipeline that run a container, by key, in the order in which they run; those inside loops
    and nested pipelines too."""

    def below(dag: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        tasks = dag["tasks"]
        for name in TopologicalSorter(
            {name: task.get("dependentTasks", []) for name, task in tasks.items()}
        ).static_order():
            task = tasks[name]
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                yield from below(component["dag"])
            else:
                yield name, task

    return dict(below(spec["root"]["dag"]))


def steps_of(run: Any, names: Collection[str]) -> list[Step]:
    """The steps of a run of `get_run` in the order in which they began; `names` has the keys of `containers`."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    by_node = {key: task for task in tasks for key in (task.pod_name, task.task_id) if key}
    found = [_step(task, by_node) for task in tasks if task.display_name in names]
    return sorted(found, key=lambda step: step.started or datetime.max.replace(tzinfo=UTC))


def _step(task: Any, by_node: Mapping[str, Any]) -> Step:
    inside = list(_executors(task, by_node))
    cached = task.state == "SUCCEEDED" and bool(inside) and all(one.state == "SKIPPED" for one in inside)
    errors = [one.error.message for one in (*reversed(inside), task) if one.error and one.error.message]
    pods = [one.pod_name for one in inside if one.pod_name] or [task.pod_name or ""]
    started, ended = _time_or_none(task.start_time), _time_or_none(task.end_time)
    return Step(
        task.display_name,
        "CACHED" if cached else str(task.state),
        started,
        ended if task.state in (*OVER, "CACHED") else None,
        tuple(pod for pod in pods if pod),
        " ".join(errors[0].split()) if errors else "",
        retries=max(0, sum(str(one.display_name) != EXECUTOR for one in inside) - 1),
    )


def _executors(task: Any, by_node: Mapping[str, Any]) -> Iterator[Any]:
    """What runs the task's container: one, or with retries one for each attempt, executor(0), executor(1) …"""
    for child in task.child_tasks or []:
        inner = by_node.get(child.pod_name or child.task_id)
        if inner is not None and str(inner.display_name).startswith(EXECUTOR):
            yield inner
            yield from _executors(inner, by_node)


def _time_or_none(time: datetime | None) -> datetime | None:
    """A time of KFP's, which gives 1970 for what has not happened yet."""
    if time is None or time.year < 2000:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
