"""Start a run, see how it stands, read its logs, stop it, go on from where it failed."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import kfp_server_api

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import PACKAGE
from pipelines.cluster.client import Client, Cluster, connect, server_message
from pipelines.cluster.deployed import ROOT, deployed_settings, with_settings
from pipelines.cluster.parameters import read_parameters, read_spec, validated
from pipelines.cluster.runs import Step, containers, get_run, minutes, spec_of_run, steps_of, table
from pipelines.cluster.versions import find_pipeline, pipeline_name, upload

UNFINISHED = ("PENDING", "RUNNING", "PAUSED")
RUN_LABEL = "pipeline/runid"  # that KFP puts on the pods of a run
NODE_ANNOTATION = "workflows.argoproj.io/node-name"  # <workflow>.<task>.<task>… of a pod


def submit(
    client: Client,
    cluster: Cluster,
    package: Path,
    values: dict[str, Any],
    name: str = "",
    experiment: str = "",
    root: str | None = None,
) -> str:
    """Starts a run of the compiled pipeline.

    Args:
        client, cluster: of `connect`.
        package: file of `make compile`; it becomes a version on the server unless it is one.
        values: parameters, of `checked`, which is to be asked before a connection is made.
        name: of the run; made from the model's name and the time where empty.
        experiment: that the run belongs to, by the pipeline's name where empty; made where there is none.
        root: where KFP keeps the run's artifacts; None for its own choice.

    Returns:
        the run's id.

    Raises:
        KubefaceError: KFP refuses.
    """
    called = pipeline_name(package)
    version, new = upload(client, package)
    print(f"version {version} of {called} ({'new' if new else 'unchanged'})")
    name = name or f"{values.get('name', called)}-{time.strftime('%Y%m%d-%H%M%S')}"
    pipeline = find_pipeline(client, called) or ""
    return _start(client, cluster, (pipeline, version), values, name, experiment or called, root=root)


def checked(package: Path, parameters: Path) -> dict[str, Any]:
    """The parameters of a file, held to the compiled pipeline's interface.

    Raises:
        KubefaceError: one of them is wrong.
    """
    return validated(read_parameters(parameters), read_spec(package))


def _start(
    client: Client,
    cluster: Cluster,
    pipeline_version: tuple[str, str],
    values: dict[str, Any],
    name: str,
    experiment: str = "",
    experiment_id: str = "",
    root: str | None = None,
) -> str:
    pipeline, version = pipeline_version
    with redirect_stdout(StringIO()):  # kfp prints links of its own, to the API's address
        belongs_to = experiment_id or client.create_experiment(experiment).experiment_id
        run = client.run_pipeline(
            belongs_to,
            name,
            params=values,
            pipeline_id=pipeline,
            version_id=version,
            pipeline_root=root,
            service_account=cluster.service_account or None,
        )
    print(f"run:  {run.run_id}\npage: {cluster.page(f'runs/details/{run.run_id}')}")
    return str(run.run_id)


def status(client: Client, cluster: Cluster, run_id: str) -> None:
    """Prints how a run and each of its steps stand, and the last words of those that failed.

    Raises:
        KubefaceError: there is no such run.
    """
    run = get_run(client, run_id)
    names = containers(spec_of_run(client, run))
    steps = steps_of(run, names)
    print(f"{run.display_name}: {run.state}\n")
    rows: list[tuple[str, ...]] = [("step", "state", "time")]
    for name in dict.fromkeys([*(step.name for step in steps), *names]):
        rows.append((name, *_standing([step for step in steps if step.name == name])))
    print(table(rows))
    for step in steps:
        if step.state == "FAILED":
            print(f"\n{step.name} failed: {_last_words(client, cluster, run_id, step)}")
    if run.error and run.error.message and run.state == "FAILED" and not any(s.state == "FAILED" for s in steps):
        print(f"\n{' '.join(run.error.message.split())}")
    print(f"\npage: {cluster.page(f'runs/details/{run_id}')}")


def _standing(steps: list[Step]) -> tuple[str, str]:
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


def _last_words(client: Client, cluster: Cluster, run_id: str, step: Step) -> str:
    """The line that the step left, in its log; what KFP says of it where there is no log."""
    try:
        lines = _log(client, cluster, run_id, step).strip().splitlines()
    except KubefaceError:
        return step.error or "it left no line; 'make logs' may have more"
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return cluster.without_secrets((said or lines or [step.error or "its log is empty"])[-1])


def logs(client: Client, cluster: Cluster, run_id: str, step: str = "") -> None:
    """Prints what the steps of a run printed.

    Args:
        step: the only one to print; empty for all.

    Raises:
        KubefaceError: there is no such run or step, or nothing was printed that could be read.
    """
    run = get_run(client, run_id)
    names = containers(spec_of_run(client, run))
    known = {shown: key for key, task in names.items() for shown in (key, task["taskInfo"]["name"])}
    require(not step or step in known, f"step '{step}' is unknown: use one of {', '.join(names)}")
    wanted = [one for one in steps_of(run, names) if one.name == known.get(step, one.name)]
    wanted = [one for one in wanted if one.state not in ("CACHED", "SKIPPED", "PENDING")]
    require(bool(wanted), f"run {run_id} has no log of {step or 'any step'}: it has not begun, or the cache served it")
    failures = []
    for one in wanted:
        print(f"── {one.name} ({one.state})")
        try:
            print(cluster.without_secrets(_log(client, cluster, run_id, one)).rstrip("\n"))
        except KubefaceError as error:
            failures.append(error)
            print(f"(no log: {error})")
    if len(failures) == len(wanted):
        raise failures[0]


def _log(client: Client, cluster: Cluster, run_id: str, step: Step) -> str:
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
    pods = list(_pods(client, cluster, run_id, step.name))
    require(bool(pods), f"the pods of {step.name} are gone, and KFP kept no log of them")
    namespace = client.namespace or cluster.system_namespace
    texts = [cluster.kubectl().run("logs", pod, "--container=main", f"--namespace={namespace}") for pod in pods]
    return "\n".join(texts)


def _pods(client: Client, cluster: Cluster, run_id: str, step: str) -> Iterator[str]:
    namespace = client.namespace or cluster.system_namespace
    found = cluster.kubectl().objects("get", "pods", f"--namespace={namespace}", f"--selector={RUN_LABEL}={run_id}")
    for pod in found:
        path = pod["metadata"].get("annotations", {}).get(NODE_ANNOTATION, "").split(".")
        if step in path:
            yield pod["metadata"]["name"]


def cancel(client: Client, run_id: str) -> None:
    """Stops a run.

    Raises:
        KubefaceError: there is no such run, or it is over.
    """
    run = get_run(client, run_id)
    require(run.state in UNFINISHED, f"run {run_id} is over or ending ({run.state}): there is nothing to cancel")
    client.terminate_run(run_id)
    print(f"run {run_id} is being stopped; its steps end within half a minute")


def resume(client: Client, cluster: Cluster, run_id: str) -> str:
    """Goes on with a run from the step that failed.

    KFP restarts it in place (`:retry`). Where the server will not (it has lost the workflow, or Argo cannot retry it:
    kubeflow/pipelines#5878, #11329), the same version is run with the same parameters, and the cache serves what was
    finished.

    Returns:
        id of the run that goes on: the same, or the new one's.

    Raises:
        KubefaceError: there is no such run, it did not fail, or KFP refuses both.
    """
    run = get_run(client, run_id)
    require(run.state in ("FAILED", "CANCELED"), f"run {run_id} is {run.state}: only one that failed is resumed")
    try:
        client.runs.run_service_retry_run(run_id)
    except kfp_server_api.ApiException as error:
        if error.status not in (400, 404, 405, 500, 501):
            raise
        why = cluster.without_secrets(server_message(error))
        print(f"KFP does not restart run {run_id} in place ({error.status}{why}); it is submitted again:")
        print("the cache serves what was finished")
    else:
        print(f"run {run_id} goes on from the step that failed\npage: {cluster.page(f'runs/details/{run_id}')}")
        return run_id
    used, config = run.pipeline_version_reference, run.runtime_config
    require(bool(used), f"run {run_id} tells no pipeline version: submit it anew with 'make submit'")
    return _start(
        client,
        cluster,
        (used.pipeline_id, used.pipeline_version_id),
        dict((config and config.parameters) or {}),
        f"{run.display_name} (again)",
        experiment_id=run.experiment_id,
        root=(config and config.pipeline_root) or None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.submit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="start a run")
    run.add_argument("--params", type=Path, required=True, help="YAML or JSON file of the run's parameters")
    run.add_argument("--package", type=Path, default=PACKAGE, help="compiled pipeline (%(default)s)")
    run.add_argument("--name", default="", help="of the run (the model's name and the time)")
    run.add_argument("--experiment", default="", help="that the run belongs to (the pipeline's name)")
    for command, text in (
        ("status", "how a run stands"),
        ("logs", "what its steps printed"),
        ("cancel", "stop it"),
        ("resume", "go on from the step that failed"),
    ):
        one = commands.add_parser(command, help=text)
        one.add_argument("run", help="id of the run")
        if command == "logs":
            one.add_argument("--step", default="", help="only this step")
    return parser


def main() -> None:
    """The command line."""
    given = _parser().parse_args()
    try:
        values = checked(given.package, given.params) if given.command == "run" else {}  # before anything is sent
        cluster = Cluster.from_environment()
        with connect(cluster) as client:
            match given.command:
                case "run":
                    settings = deployed_settings(cluster)
                    values = with_settings(values, settings)
                    submit(client, cluster, given.package, values, given.name, given.experiment, settings.get(ROOT))
                case "status":
                    status(client, cluster, given.run)
                case "logs":
                    logs(client, cluster, given.run, given.step)
                case "cancel":
                    cancel(client, given.run)
                case "resume":
                    resume(client, cluster, given.run)
    except KubefaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
