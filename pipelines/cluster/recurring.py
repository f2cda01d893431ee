"""Recurring runs of the pipelines of kubeface: by name, with the runs of them that are going, and their deletion.

Kubernetes deletes the Workflows of a recurring run with it (owner references), also that of a run that is going: its
pods end, and KFP shows it as running for ever. So a recurring run is deleted when its runs have ended. Since 2.16 KFP
also takes the request to leave the Workflows, which then can still be resumed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kfp_server_api

from pipelines.build.catalogue import TASKS
from pipelines.cluster.client import Client
from pipelines.cluster.runs import CANCELING, OVER
from pipelines.cluster.versions import equals, find_pipeline
from pipelines.cluster.watch import INTERRUPTED, WaitingLine, poll
from pipelines.cluster.workflow import has_workflow
from pipelines.formatting import minutes

PAGE = 100
ORPHAN = "ORPHAN"  # DeletePropagationPolicy of recurring_run.proto in kubeflow/pipelines: what it owns stays


def all_recurring(client: Client) -> list[Any]:
    """Every recurring run of the pipelines of kubeface, oldest first."""
    found: list[Any] = []
    token = ""
    while True:
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=client.namespace or None)
        found += page.recurring_runs or []
        token = page.next_page_token or ""
        if not token:
            break
    pipelines = {pipeline for name in TASKS if (pipeline := find_pipeline(client, name))}
    ours = [one for one in found if getattr(one.pipeline_version_reference, "pipeline_id", "") in pipelines]
    return sorted(ours, key=lambda one: one.created_at)


def named(client: Client, name: str) -> list[Any]:
    """Those of this name, oldest first."""
    return [one for one in all_recurring(client) if one.display_name == name]


def is_on(one: Any) -> bool:
    """Whether a recurring run starts runs."""
    return bool(one.status == "ENABLED")


def cron_of(one: Any) -> str:
    """The cron expression of a recurring run; - where it has none."""
    planned = one.trigger and one.trigger.cron_schedule
    return str(planned.cron) if planned else "-"


@dataclass(frozen=True, slots=True)
class GoingRun:
    """A run of a recurring run that has not ended, as KFP tells it."""

    run_id: str
    name: str
    state: str
    is_lost: bool  # Kubernetes has no Workflow of it, so that KFP will never tell its end

    def __str__(self) -> str:
        return f"{self.name} ({self.run_id}) {self.state}"


def going_runs(client: Client, recurring_run: str) -> list[GoingRun]:
    """The runs of a recurring run that have not ended. Its newest are looked through: one is going at a time."""
    listed = client.list_runs(
        page_size=PAGE,
        sort_by="created_at desc",
        namespace=client.namespace or None,
        filter=equals("recurring_run_id", recurring_run),
    )
    return [
        GoingRun(run.run_id, run.display_name, run.state, _is_lost(client, run.run_id))
        for run in listed.runs or []
        if run.recurring_run_id == recurring_run and run.state not in OVER
    ]


def _is_lost(client: Client, run: str) -> bool:
    return has_workflow(client.cluster.kubectl(), client.run_namespace, run) is False


class Deletion:
    """Deletes recurring runs that start nothing any more, each once its runs have ended.

    Args:
        ids: of the recurring runs.
        stop: cancel the runs that are going.
    """

    def __init__(self, ids: Sequence[str], stop: bool) -> None:
        self._left = list(ids)
        self._stop = stop

    def sweep(self, client: Client) -> list[GoingRun]:
        """Deletes those that have no run going; the runs that are."""
        going: list[GoingRun] = []
        for recurring_run in list(self._left):
            runs = going_runs(client, recurring_run)
            if self._stop:
                for run in runs:
                    _stop(client, run)
                runs = [run for run in runs if not run.is_lost]
            if not runs:
                _delete(client, recurring_run)
                self._left.remove(recurring_run)
            going += runs
        return going


def _stop(client: Client, run: GoingRun) -> None:
    if run.state == CANCELING:
        return
    try:
        client.terminate_run(run.run_id)
    except kfp_server_api.ApiException as error:
        if not (run.is_lost and error.status >= 500):  # KFP marks it, and then does not find its workflow
            raise


def _delete(client: Client, recurring_run: str) -> None:
    try:
        client.recurring_runs.recurring_run_service_delete_recurring_run(recurring_run, propagation_policy=ORPHAN)
    except kfp_server_api.ApiException as error:
        if error.status != 404:  # deleted by a request whose answer was lost
            raise


def _note_on_lost(going: Sequence[GoingRun]) -> str:
    lost = ", ".join(run.name for run in going if run.is_lost)
    return f"; Kubernetes has nothing of {lost} any more: --stop (make: STOP=1) goes on without it" if lost else ""


def delete_when_idle(deletion: Deletion, what: str, repeat: str, wait: bool) -> bool:
    """Deletes recurring runs that are paused: at once where none of their runs is going, else when it has ended, or
    not, if that is not to be waited for.

    Args:
        what: what is deleted, as the lines that are printed call it.
        repeat: the command that deletes them later.

    Returns:
        whether they are deleted.
    """
    start, told = time.monotonic(), False
    with WaitingLine() as line:
        try:
            for going in poll(deletion.sweep):
                if not going:
                    return True
                run, note = "its run " + ", ".join(map(str, going)), _note_on_lost(going)
                if not wait:
                    print(f"{what} is paused, not deleted: {run} is going. When it has ended, repeat {repeat}{note}")
                    return False
                if not told:
                    print(f"{what} is paused, and deleted when {run} has ended (Ctrl-C leaves it paused){note}")
                    told = True
                states = ", ".join(f"{run.name} {run.state}" for run in going)
                line.show(f"waiting for {states}: {minutes(time.monotonic() - start)}")
        except KeyboardInterrupt:
            print(f"\n{what} is paused, not deleted. Repeat {repeat}")
            raise SystemExit(INTERRUPTED) from None
    raise AssertionError("poll goes on")
