"""The command `plan`: what a run would do and cost, before it is submitted."""

import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from math import ceil
from pathlib import Path
from typing import Any

from kubeface.ingest.catalogue import Shard
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import plan_shards
from kubeface.records.data import previous_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.cluster.client import Client, connect
from pipelines.cluster.parameters import with_defaults
from pipelines.cluster.request import deployed_settings, read_request, with_settings
from pipelines.cluster.runs import RunConfig, Step, containers, minutes, steps_of, table
from pipelines.cluster.versions import Package, find_pipeline, find_version

RUNS = 20  # earlier runs that are looked at
SOURCE, CHAMPION = "the source", "the promoted model"  # what no parameter tells the state of
ASKS = {"plan": SOURCE, "champion": CHAMPION}  # the tasks that look there, and are therefore never cached
INSTEAD = "keep"  # the branch that a run takes instead of a training; a plan is of the training
Causes = frozenset[str]
NONE: Causes = frozenset()


@dataclass(frozen=True)
class Earlier:
    """What earlier runs tell.

    Args:
        run: the newest that succeeded with the same version of the pipeline; None where there is none.
        runs: of each run that succeeded, newest first, the steps that were not served from the cache.
    """

    run: Any
    runs: list[list[Step]]

    def seconds(self, name: str) -> float | None:
        """What the step took in the newest run that it really ran in, on average of its shards."""
        newest = next(([s for s in run if s.name == name] for run in self.runs if any(s.name == name for s in run)), [])
        taken = [step.seconds for step in newest if step.seconds is not None]
        return sum(taken) / len(taken) if taken else None


@dataclass(frozen=True)
class Listed:
    """What the source holds now.

    Args:
        files: images; None where the source was not looked at.
        shards: their number.
        fresh: shards that are new or have changed since the run before.
        note: why it was not looked at, or what it was held against.
    """

    files: int | None
    shards: int
    fresh: int
    note: str = ""

    @property
    def images(self) -> int | None:
        """Images in the shards that are worked on: people are divided evenly by a hash, so it is their share."""
        return None if self.files is None else round(self.files * self.fresh / max(1, self.shards))


@dataclass
class Plan:
    """One row for each step: whether it runs, why, how long, how many GPU-hours."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    seconds: float = 0.0
    gpu_hours: float = 0.0
    unknown: list[str] = field(default_factory=list)


def earlier_runs(client: Client, package: Package) -> Earlier:
    """The pipeline's runs that succeeded.

    Args:
        client: of `connect`.
        package: compiled pipeline; its version is the one that the cache is asked of.
    """
    pipeline, version = find_pipeline(client, package.pipeline), find_version(client, package)
    listed = client.list_runs(page_size=RUNS, sort_by="created_at desc", namespace=client.namespace or None).runs or []
    good = [
        run
        for run in listed
        if run.state == "SUCCEEDED"
        and pipeline
        and getattr(run.pipeline_version_reference, "pipeline_id", "") == pipeline
    ]
    same = [run for run in good if version and RunConfig.of(run).version == version]
    # The list of runs has no tasks in every version of KFP: each is asked for by itself.
    full, names = [client.get_run(run.run_id) for run in good], containers(package.spec)
    steps = [[step for step in steps_of(run, names) if step.state == "SUCCEEDED"] for run in full]
    return Earlier(same[0] if same else None, steps)


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Names of the parameters whose values differ."""
    return {name for name in now if before.get(name) != now[name]}


def fresh_tasks(spec: Mapping[str, Any], changed: set[str], states: set[str]) -> dict[str, Causes]:
    """The tasks that the cache does not serve, each with the causes; none where it is never cached.

    KFP's key of a step is its image, command and inputs: a changed input has it run anew, and with it whatever takes
    what it gives out. Followed through loops and branches of the compiled pipeline.

    Args:
        spec: compiled pipeline.
        changed: pipeline parameters that differ from the run before.
        states: of SOURCE and CHAMPION, those that (may) have changed.
    """
    found: dict[str, Causes] = {}
    _follow(spec, spec["root"]["dag"], {name: frozenset([name]) for name in changed}, states, found)
    return found


def _follow(
    spec: Mapping[str, Any],
    dag: Mapping[str, Any],
    dirty: Mapping[str, Causes],
    states: set[str],
    found: dict[str, Causes],
) -> dict[str, Causes]:
    """Marks the tasks of a DAG; returns its outputs that have changed, each with the causes.

    Args:
        dirty: inputs of the DAG that have changed, each with the causes.
    """
    given: dict[tuple[str, str], Causes] = {}  # outputs of tasks that have changed
    for name in _in_order(dag["tasks"]):
        task, part = dag["tasks"][name], spec["components"][dag["tasks"][name]["componentRef"]["name"]]
        inputs = _dirty_inputs(task, dirty, given)
        if "dag" in part:
            inner = _follow(spec, part["dag"], inputs, states, found)
            given |= {(name, output): causes for output, causes in inner.items()}
            continue
        causes = NONE.union(*inputs.values()) | ({ASKS[name]} & states if name in ASKS else set())
        if causes or not task.get("cachingOptions", {}).get("enableCache", False):
            found[name] = causes
        if causes:
            outputs = part.get("outputDefinitions", {})
            given |= {(name, key): causes for kind in ("parameters", "artifacts") for key in outputs.get(kind, {})}
    return _dirty_outputs(dag.get("outputs", {}), given)


def _in_order(tasks: Mapping[str, Any]) -> Iterator[str]:
    """The tasks of a DAG, each behind those that it depends on."""
    done: set[str] = set()
    while len(done) < len(tasks):
        for name, task in tasks.items():
            if name not in done and done.issuperset(task.get("dependentTasks", ())):
                done.add(name)
                yield name


def _dirty_inputs(
    task: Mapping[str, Any], dirty: Mapping[str, Causes], given: Mapping[tuple[str, str], Causes]
) -> dict[str, Causes]:
    found: dict[str, Causes] = {}
    inputs = task.get("inputs", {})
    for name, entry in {**inputs.get("parameters", {}), **inputs.get("artifacts", {})}.items():
        outer = entry.get("componentInputParameter") or entry.get("componentInputArtifact")
        made = entry.get("taskOutputParameter") or entry.get("taskOutputArtifact") or {}
        key = made.get("outputParameterKey") or made.get("outputArtifactKey") or ""
        causes = dirty.get(outer) if outer else given.get((made.get("producerTask", ""), key))
        if causes:
            found[name] = causes
    loop = task.get("parameterIterator")
    if loop and (causes := found.get(loop["items"].get("inputParameter", ""))):
        found[loop["itemInput"]] = causes
    return found


def _dirty_outputs(outputs: Mapping[str, Any], given: Mapping[tuple[str, str], Causes]) -> dict[str, Causes]:
    found: dict[str, Causes] = {}
    for name, entry in {**outputs.get("parameters", {}), **outputs.get("artifacts", {})}.items():
        one = [entry["valueFromParameter"]] if "valueFromParameter" in entry else []
        several = entry.get("valueFromOneof", {}).get("parameterSelectors", [])
        for chosen in [*one, *several, *entry.get("artifactSelectors", [])]:
            key = chosen.get("outputParameterKey") or chosen.get("outputArtifactKey") or ""
            if causes := given.get((chosen["producerSubtask"], key)):
                found[name] = found.get(name, NONE) | causes
    return found


def list_source(values: Mapping[str, Any]) -> Listed:
    """Lists the source by names, as the run's first step does, and compares it with the run before.

    Args:
        values: every parameter of the pipeline; the store is that of S3_ENDPOINT.
    """
    try:
        options = read_options(IngestOptions, values["ingest"], "ingest.")
        with redirect_stderr(StringIO()):
            planned = plan_shards(values["source"], int(values["resources"]["shards"]), options)
        before = previous_shards(f"{values['models']}/{values['name']}/data.json")
    except KubefaceError as error:
        return Listed(None, 1, 1, str(error))
    shards = [Shard.parse(text) for text in planned.shards]
    fresh = [shard for shard in shards if before.get(f"{shard.number}/{shard.count}") != shard.fingerprint]
    note = "" if before else "no training before it is known, all of it is new"
    return Listed(planned.files, len(shards), len(fresh), note)


def gpus(spec: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> float:
    """GPUs that a task asks for, on all its nodes together.

    Args:
        spec: compiled pipeline.
        task: key of the task.
        values: every parameter; the number may be one, and so may that of the nodes.
    """
    inputs = containers(spec)[task].get("inputs", {}).get("parameters", {})
    part = spec["components"][containers(spec)[task]["componentRef"]["name"]]
    container = spec["deploymentSpec"]["executors"][part["executorLabel"]].get("container", {})
    asked = container.get("resources", {}).get("accelerator", {})
    count = str(asked.get("resourceCount") or asked.get("count") or "0")
    if named := re.search(r"pipelinechannel--(\w+)", count):
        count = str(values[named[1]])
    if (
        "num_nodes" in inputs and values["num_nodes"] > 1
    ):  # the pods are Kubeflow Trainer's, and get what it says of them
        count = str(values["num_nodes"] * float(values["node_resources"].get(values["gpu_type"], 0)))
    return float(count or 0)


def estimate(spec: Mapping[str, Any], values: Mapping[str, Any], earlier: Earlier, listed: Listed) -> Plan:
    """What each step would do.

    Args:
        spec: compiled pipeline.
        values: every parameter, of `with_defaults`.
        earlier: of `earlier_runs`.
        listed: of `list_source`.
    """
    names, plan = containers(spec), Plan()
    states = {CHAMPION} | ({SOURCE} if listed.fresh or listed.files is None else set())
    fresh: dict[str, Causes] = dict.fromkeys(names, NONE)
    if earlier.run is not None:
        config = earlier.run.runtime_config
        before = with_defaults((config and config.parameters) or {}, spec)
        fresh = fresh_tasks(spec, differing(before, values), states)
    loop, at_a_time = _loop(spec)
    for name in names:
        if name == INSTEAD:
            continue
        if name not in fresh:
            plan.rows.append((name, "cache", "", "-", ""))
            continue
        # Where nothing but the source has changed, the shards that have not are served from the cache.
        shards = (listed.fresh if fresh[name] == {SOURCE} else listed.shards) if name in loop else 1
        each = earlier.seconds(name)
        hours = gpus(spec, name, values) * (each or 0.0) / 3600
        took = None if each is None else each * ceil(shards / at_a_time if name in loop else 1)
        plan.seconds, plan.gpu_hours = plan.seconds + (took or 0.0), plan.gpu_hours + hours
        if each is None:
            plan.unknown.append(name)
        why = "no earlier run" if earlier.run is None else ", ".join(sorted(fresh[name])) or "never cached"
        amount = f" ({shards} of {listed.shards} shards)" if name in loop else ""
        plan.rows.append((name, "runs", why + amount, minutes(took), f"{hours:.2f}" if hours else ""))
    return plan


def _loop(spec: Mapping[str, Any]) -> tuple[set[str], int]:
    """The tasks inside the loop over shards, and how many shards are worked on at a time."""
    for task in spec["root"]["dag"]["tasks"].values():
        part = spec["components"][task["componentRef"]["name"]]
        if "parameterIterator" in task and "dag" in part:
            return set(part["dag"]["tasks"]), int(task.get("iteratorPolicy", {}).get("parallelismLimit", 1)) or 1
        if "dag" in part:
            inner, limit = _loop({**spec, "root": {"dag": part["dag"]}})
            if inner:
                return inner, limit
    return set(), 1


def show(plan: Plan, earlier: Earlier, listed: Listed) -> None:
    """Prints the plan as a table, with what it does not know."""
    images = "the source was not looked at" if listed.images is None else f"about {listed.images} of {listed.files}"
    print(f"images to process: {images}{f' ({listed.note})' if listed.note else ''}")
    if earlier.run is None:
        print("earlier run: none of this version of the pipeline succeeded; every step is taken to run")
    else:
        print(f"earlier run: {earlier.run.display_name} ({earlier.run.run_id}), same version of the pipeline")
    print()
    print(table([("step", "", "why", "time", "GPU-hours"), *plan.rows]))
    if not any(earlier.runs):
        print("\nno step has been run on this cluster yet: there is nothing to tell times from")
        return
    print(
        f"\nexpected: {minutes(plan.seconds)} and {plan.gpu_hours:.2f} GPU-hours, from earlier runs' times, no waiting"
    )
    if plan.unknown:
        print(f"not in it, for they have not been run yet: {', '.join(plan.unknown)}")


def plan(*, params: Path, pipeline: str = FACE_FINETUNING, package: Path | None = None) -> None:
    """Says what a run would do and cost, before it is submitted. Nothing is sent but questions.

    Args:
        params: YAML or JSON file of the run's parameters.
        pipeline: Name of the pipeline.
        package: Compiled pipeline; build/<pipeline>.yaml where it is not given.

    Raises:
        KubefaceError: a parameter is wrong, or KFP is not reached or refuses.
    """
    request = read_request(params, pipeline, package)
    spec = request.package.spec
    with connect() as client:
        earlier = earlier_runs(client, request.package)
        values = with_defaults(with_settings(request.parameters, deployed_settings(client.cluster)), spec)
    listed = list_source(values)
    show(estimate(spec, values, earlier, listed), earlier, listed)
