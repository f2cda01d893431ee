"""The commands about runs: start one, see its state, read its logs, stop it, resume it where it failed."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Annotated, Any

import kfp_server_api
from cyclopts import Parameter

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.cluster import watch
from pipelines.cluster.client import Client, connect, server_message
from pipelines.cluster.request import PackageFlag, ParamsFlag, PipelineFlag, configure, read_request
from pipelines.cluster.runs import (
    CANCELING,
    UNFINISHED,
    RunConfig,
    Step,
    containers,
    get_run,
    spec_of_run,
    steps_of,
)
from pipelines.cluster.workflow import RUN_LABEL, find_workflow, has_workflow, steps_of_workflow
from pipelines.formatting import minutes, table

STOP_SECONDS = 120.0  # that a cancelled run's steps may take to end
RunId = Annotated[str, Parameter(help="Id of the run.")]
NODE_ANNOTATION = "workflows.argoproj.io/node-name"  # <workflow>.<task>.<task>… of a pod


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
    print(f"run:  {run.run_id}\npage: {_page(client, run.run_id)}")


def _page(client: Client, run: str) -> str:
    return client.cluster.page(f"runs/details/{run}")


def status(run: RunId) -> None:
    """Prints the state of a run and of each of its steps, and the last words of those that failed."""
    with connect() as client:
        found = get_run(client, run)
        names = containers(spec_of_run(client, found))
        steps = _steps(client, found, names)
        print(f"{found.display_name}: {found.state}\n")
        rows: list[tuple[str, ...]] = [("step", "state", "time")]
        for name in names:
            rows.append((name, *_state_and_time([step for step in steps if step.name == name])))
        print(table(rows))
        for step in steps:
            if step.state == "FAILED":
                print(f"\n{step.name} failed: {_last_words(client, run, step)}")
            if step.state == "PENDING" and step.error:
                print(f"\n{step.name} waits: {step.error}")
        if (
            found.error
            and found.error.message
            and found.state == "FAILED"
            and not any(s.state == "FAILED" for s in steps)
        ):
            print(f"\n{' '.join(found.error.message.split())}")
        print(f"\npage: {_page(client, run)}")


def logs(run: RunId, *, step: str = "") -> None:
    """Prints what the steps of a run printed.

    Args:
        step: The only step to print; empty for all.
    """
    with connect() as client:
        found = get_run(client, run)
        names = containers(spec_of_run(client, found))
        known = {shown: key for key, task in names.items() for shown in (key, task["taskInfo"]["name"])}
        require(not step or step in known, f"step '{step}' is unknown: use one of {', '.join(names)}")
        wanted = [one for one in _steps(client, found, names) if one.name == known.get(step, one.name)]
        wanted = [one for one in wanted if one.state not in ("CACHED", "SKIPPED", "PENDING")]
        require(bool(wanted), f"run {run} has no log of {step or 'any step'}: it has not begun, or the cache served it")
        failures = []
        for one in wanted:
            print(f"── {one.name} ({one.state})")
            try:
                print(client.cluster.without_secrets(_log(client, run, one)).rstrip("\n"))
            except KubefaceError as error:
                failures.append(error)
                print(f"(no log: {error})")
        if len(failures) == len(wanted):
            raise failures[0]


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
            print(f"run {run} goes on from the steps that had not ended\npage: {_page(client, run)}")
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


def _steps(client: Client, run: Any, names: Mapping[str, Any]) -> list[Step]:
    """Of the run's Workflow object where kubectl reaches it, else what KFP tells of them."""
    try:
        workflow = find_workflow(client.cluster.kubectl(), client.run_namespace, run.run_id)
    except KubefaceError:  # there is no kubectl, or no right to look
        workflow = None
    return steps_of_workflow(workflow, names) if workflow else steps_of(run, names)


def _state_and_time(steps: list[Step]) -> tuple[str, str]:
    """State and time of a step, that of all its shards together where it has several."""
    if not steps:
        return "not begun", "-"
    counts = Counter(step.state for step in steps)
    state = steps[0].state if len(steps) == 1 else ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    begun = [step for step in steps if step.started]
    if not begun or set(counts) == {"CACHED"}:
        return state, "-"
    if all(step.ended for step in begun):
        first, last = min(s.started for s in begun if s.started), max(s.ended for s in begun if s.ended)
        return state, minutes((last - first).total_seconds())
    return state, minutes(max(step.seconds or 0.0 for step in begun))


def _last_words(client: Client, run_id: str, step: Step) -> str:
    """The error in a step's log, else its last line; KFP's message where there is no log."""
    try:
        lines = _log(client, run_id, step).strip().splitlines()
    except KubefaceError:
        return step.error or "it left no line; 'make logs' may have more"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return client.cluster.without_secrets((errors or lines or [step.error or "its log is empty"])[-1])


def _log(client: Client, run_id: str, step: Step) -> str:
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
