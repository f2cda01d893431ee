"""The command `plan`: what a run would do and cost, before it is submitted."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from math import ceil
from typing import Any

from kubeface.ingest.step import plan_shards
from kubeface.plan.parameters import RunParameters, read_parameters, step_options
from kubeface.plan.resources import STANDARD, Resources
from kubeface.plan.step import Plan, outputs
from kubeface.records.data import previous_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.cluster.cache import NONE, Causes, loop_of, uncached_tasks
from pipelines.cluster.client import Client, connect
from pipelines.cluster.request import PackageFlag, ParamsFlag, PipelineFlag, Request, read_request
from pipelines.cluster.runs import RunConfig, Step, containers, steps_of
from pipelines.cluster.versions import Package, find_pipeline, find_version
from pipelines.formatting import minutes, table

RUNS = 20  # earlier runs that are looked at
PLAN, SHARDS, CHAMPION = "plan", "Output", "champion"  # the task that plans a run, and two of its outputs
THE_SOURCE, THE_CHAMPION = "the source", "the promoted model"  # causes that are no parameter
TRAINING = "finetune"  # begins the names of the tasks with GPUs


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """What is known from earlier runs of a pipeline."""

    same: Any  # the newest that succeeded with the same version, as the client gives it; None where there is none
    # Of each run that succeeded, newest first, the steps that were not served from the cache
    steps: Sequence[Sequence[Step]]

    def seconds(self, name: str) -> float | None:
        """What a step took in the newest run that it was not served in, on average of its shards."""
        for run in self.steps:
            if found := [step.seconds for step in run if step.name == name]:
                taken = [seconds for seconds in found if seconds is not None]
                return sum(taken) / len(taken) if taken else None
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """What the source holds now."""

    files: int | None  # images; None where the source could not be listed
    shards: int  # their number
    changed: int  # shards that are new or have changed since the run before
    note: str = ""  # why it could not be listed, or what it was compared with

    @property
    def images(self) -> int | None:
        """Images in the changed shards: people are divided evenly by a hash, so it is their share."""
        return None if self.files is None else round(self.files * self.changed / max(1, self.shards))


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do."""

    rows: Sequence[tuple[str, ...]]  # a row for each step: name, whether it runs, why, how long, GPU-hours
    seconds: float  # expected time of all steps
    gpu_hours: float  # expected of all steps
    unknown: Sequence[str]  # steps that have not been run yet


def plan(params: ParamsFlag, *, pipeline: PipelineFlag = FACE_FINETUNING, package: PackageFlag = None) -> None:
    """Says what a run would do and cost, before it is submitted. Nothing is sent but questions."""
    request = read_request(params, pipeline, package)
    with connect() as client:
        earlier = earlier_runs(client, request.package)
    source = list_source(request)
    _print(forecast(request, earlier, source), earlier, source)


def earlier_runs(client: Client, package: Package) -> EarlierRuns:
    """The runs of a package's pipeline that succeeded, and the newest of its version, whose results the cache holds."""
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
    return EarlierRuns(same[0] if same else None, steps)


def list_source(request: Request) -> Source:
    """Lists the source by names, as the run's first step does, and compares it with the run before.

    The store is the one of S3_ENDPOINT in this environment.
    """
    run = request.read()
    try:
        with redirect_stderr(StringIO()):
            shards = plan_shards(run.source, run.resources.shards, run.ingest)
        before = previous_shards(objects.join(objects.join(run.models, run.name), "data.json"))
    except KubefaceError as error:
        return Source(None, 1, 1, str(error))
    parts = [text.partition(" ") for text in shards.shards]
    changed = [number for number, _, rest in parts if before.get(number) != rest]
    note = "" if before else "no training before it is known, all of it is new"
    return Source(shards.files, len(parts), len(changed), note)


def planned_changes(pipeline: str, before: RunParameters, now: RunParameters) -> dict[str, Causes]:
    """Outputs of the task `plan` that differ between two runs, each with the names of the options that differ."""
    first, second = (
        outputs(Plan([], "", step_options(pipeline, run), run.resources.filled(STANDARD))) for run in (before, now)
    )
    return {name: _differences(name, first[name], second[name]) for name in second if first.get(name) != second[name]}


def _differences(name: str, before: Any, now: Any) -> Causes:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return frozenset({name})
    return frozenset(f"{name}.{key}" for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def forecast(request: Request, earlier: EarlierRuns, source: Source) -> Forecast:
    """What each step of a run would do."""
    spec = request.package.spec
    resources = request.read().resources
    names, (loop, at_a_time) = containers(spec), loop_of(spec)
    runs = _uncached(request, earlier, source) if earlier.same is not None else dict.fromkeys(names, NONE)
    rows: list[tuple[str, ...]] = []
    seconds = gpu_hours = 0.0
    unknown: list[str] = []
    for name in names:
        if name not in runs:
            rows.append((name, "cache", "", "-", ""))
            continue
        # Where nothing but the source has changed, the shards that have not are served from the cache.
        shards = (source.changed if runs[name] == {THE_SOURCE} else source.shards) if name in loop else 1
        each = earlier.seconds(name)
        hours = gpus(resources) * (each or 0.0) / 3600 if name.startswith(TRAINING) else 0.0
        took = None if each is None else each * ceil(shards / at_a_time if name in loop else 1)
        seconds, gpu_hours = seconds + (took or 0.0), gpu_hours + hours
        unknown += [name] if each is None else []
        why = "no earlier run" if earlier.same is None else ", ".join(sorted(runs[name])) or "never cached"
        amount = f" ({shards} of {source.shards} shards)" if name in loop else ""
        rows.append((name, "runs", why + amount, minutes(took), f"{hours:.2f}" if hours else ""))
    return Forecast(rows, seconds, gpu_hours, unknown)


def _uncached(request: Request, earlier: EarlierRuns, source: Source) -> dict[str, Causes]:
    """The tasks that the cache does not serve, each with the causes; see `uncached_tasks`."""
    pipeline, now = request.package.pipeline, request.read()
    before = read_parameters(pipeline, RunConfig.of(earlier.same).parameters)
    names = [name for name in type(now).model_fields if getattr(before, name) != getattr(now, name)]
    planned = planned_changes(pipeline, before, now) | {CHAMPION: frozenset({THE_CHAMPION})}
    if source.changed or source.files is None:
        planned |= {SHARDS: frozenset({THE_SOURCE})}
    return uncached_tasks(request.package.spec, {name: frozenset({name}) for name in names}, {PLAN: planned})


def gpus(resources: Resources) -> float:
    """GPUs that a training uses, on all its nodes together."""
    nodes, pod = resources.nodes, resources.filled(STANDARD).finetune
    if nodes.num_nodes > 1:  # the pods are Kubeflow Trainer's, and get what it says of them
        return nodes.num_nodes * float(nodes.resources.get(pod.gpu_type, 0))
    return pod.gpus


def _print(expected: Forecast, earlier: EarlierRuns, source: Source) -> None:
    """Prints a forecast as a table, with what it does not know."""
    images = "the source was not looked at" if source.images is None else f"about {source.images} of {source.files}"
    print(f"images to process: {images}{f' ({source.note})' if source.note else ''}")
    if earlier.same is None:
        print("earlier run: none of this version of the pipeline succeeded; every step is taken to run")
    else:
        print(f"earlier run: {earlier.same.display_name} ({earlier.same.run_id}), same version of the pipeline")
    print()
    print(table([("step", "", "why", "time", "GPU-hours"), *expected.rows]))
    if not any(earlier.steps):
        print("\nno step has been run on this cluster yet: there is nothing to tell times from")
        return
    print(
        f"\nexpected: {minutes(expected.seconds)} and {expected.gpu_hours:.2f} GPU-hours, from earlier runs' times, no "
        "waiting"
    )
    if expected.unknown:
        print(f"not in it, for they have not been run yet: {', '.join(expected.unknown)}")
