"""The commands that start a run, stop it, and go on with it."""

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import kfp_server_api

from kubeface.runtime.errors import require
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.cluster import watch
from pipelines.cluster.client import Client, connect, server_message
from pipelines.cluster.request import PackageFlag, ParamsFlag, PipelineFlag, RunId, configure, read_request
from pipelines.cluster.runs import CANCELING, UNFINISHED, RunConfig, get_run
from pipelines.cluster.workflow import has_workflow

STOP_SECONDS = 120.0  # that a cancelled run's steps may take to end


def submit(
    params: ParamsFlag,
    *,
    pipeline: PipelineFlag = FACE_FINETUNING,
    package: PackageFlag = None,
    name: str = "",
    experiment: str = "",
) -> None:
    """Starts a run.

    Args:
        name: Name of the run; the model's name and the time where empty.
        experiment: Experiment that the run belongs to; the pipeline's name where empty.
    """
    request = read_request(params, pipeline, package)  # before anything is sent
    called = request.package.pipeline
    with connect() as client:
        config = configure(client, request)
        print(f"version {config.version.version_id} of {called} ({'new' if config.version.is_new else 'unchanged'})")
        name = name or f"{config.parameters.get('name', called)}-{time.strftime('%Y%m%d-%H%M%S')}"
        with redirect_stdout(StringIO()):  # kfp prints links of its own, to the API's address
            experiment_id = client.create_experiment(experiment or called).experiment_id
        _start(client, config, name, experiment_id)


def _start(client: Client, config: RunConfig, name: str, experiment_id: str) -> None:
    with redirect_stdout(StringIO()):
        run = client.run_pipeline(experiment_id, name, **config.arguments())
    print(f"run:  {run.run_id}\npage: {client.cluster.run_page(run.run_id)}")


def cancel(run: RunId) -> None:
    """Stops a run."""
    with connect() as client:
        state = get_run(client, run).state
        require(state in UNFINISHED, f"run {run} is over or ending ({state}): there is nothing to cancel")
        client.terminate_run(run)
        print(f"run {run} is being stopped; its steps end within half a minute")


def resume(run: RunId) -> None:
    """Goes on with a run that failed or was cancelled.

    KFP restarts it in place (`:retry`): 2.17.0 looks at the run's workflow alone, which must have failed, with no node
    left running or pending, and none offloaded. Where it refuses, or has lost the workflow (kubeflow/pipelines#5878,
    #11329), the same version is run with the same parameters, and the cache serves the steps that ended."""
    with connect() as client:
        found = get_run(client, run)
        if found.state == CANCELING:
            found = _wait_until_stopped(client, run)
        require(
            found.state in ("FAILED", "CANCELED", CANCELING),
            f"run {run} is {found.state}: only one that failed or was cancelled is resumed",
        )
        try:
            client.runs.run_service_retry_run(run)
        except kfp_server_api.ApiException as error:
            if error.status not in (400, 404, 405, 500, 501):
                raise
            why = client.cluster.without_secrets(server_message(error))
        else:
            print(f"run {run} goes on from the steps that had not ended\npage: {client.cluster.run_page(run)}")
            return
        config, name = RunConfig.of(found), f"{found.display_name} (again)"
        print(
            f"KFP does not restart run {run} in place{why}: the same starts anew as '{name}'; {_what_is_kept(config)}"
        )
        _start(client, config, name, found.experiment_id)


def _wait_until_stopped(client: Client, run: str) -> Any:
    """The run once its steps have been stopped, or Kubernetes has nothing of it any more, or the time is up. Raises
    KubefaceError if its steps still run by then."""
    print(f"run {run} is still being stopped: waiting for its end", flush=True)
    end = time.monotonic() + STOP_SECONDS
    while (found := get_run(client, run)).state == CANCELING and time.monotonic() < end:
        watch.rest()
    if found.state == CANCELING:  # for good, where the workflow was deleted meanwhile
        remains = has_workflow(client.cluster.kubectl(), client.run_namespace, run)
        require(not remains, f"run {run} is still being stopped after {STOP_SECONDS:g} s: try again in a minute")
    return found


def _what_is_kept(config: RunConfig) -> str:
    """What a run that starts anew does not do again."""
    options = config.parameters.get("finetune")
    has_checkpoints = isinstance(options, Mapping) and bool(options.get("checkpoints"))
    training = "goes on from its last checkpoint" if has_checkpoints else "starts anew unless it had ended"
    return f"the cache serves the steps that ended, and finetune {training}"
