"""A pipeline on this machine, step by step in processes of their own, through kfp.local."""

import builtins
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

from cyclopts import Parameter
from kfp import local
from kfp.local.orchestrator import task_spec_utils
from pydantic import Field, create_model

from kubeface.plan.parameters import PIPELINES, merged, read_parameters
from kubeface.records.record import STEP_FILE
from kubeface.records.summary import ClassesSummary, SummaryRecord, read_summary
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import Options
from kubeface.runtime.processors import MALLOC_SETTINGS, limit_threads
from pipelines.build.catalogue import FACE_FINETUNING, load, restored
from pipelines.cluster.request import read_file
from pipelines.formatting import table
from pipelines.local.console import COLOURS, Console

RUNS = Path("runs")
Runner = Any  # kfp.local's SubprocessRunner or DockerRunner; kfp has no types


def run_local(
    arguments: Mapping[str, Any],
    folder: Path,
    cache: Path | None = None,
    runner: Runner | None = None,
    pipeline: str = FACE_FINETUNING,
) -> SummaryRecord:
    """Runs a pipeline through kfp.local, its steps in processes of this environment unless a runner is given.

    Leaves report.html, data.html, summary.json, model/, run.log and the artifacts of every step (steps/) in `folder`,
    which must not exist yet, and points runs/latest beside it at it. The folder `cache` remembers where the outputs of
    earlier runs lie: what has the same inputs is not done again. It does not know the code; leave it out after a change
    of that.

    Raises KubefaceError if there is no such pipeline, or a step failed; the line says which and why."""
    made = load(pipeline)
    require(not folder.exists(), f"{folder} exists already: choose another name for the run")
    folder.mkdir(parents=True)
    local.init(
        runner or local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "steps"),
        enable_caching=cache is not None,
        cache_root=str(cache) if cache else None,
    )
    log = folder / "run.log"
    with (
        _for_this_machine(made),
        _task_outputs_in_loops(),
        # kfp.local (2.17) indents Python's print while a step runs, and two steps of a loop at once leave it indented.
        patch.object(builtins, "print", builtins.print),
        _root_logger_as_it_was(),
        _explained_failures(log),
        closing(Console(log, sys.stdout)) as console,
        redirect_stdout(console),
        warnings.catch_warnings(),
    ):
        # The images are named for the cluster; here the same code runs in this environment.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task that uses custom")
        warnings.filterwarnings("ignore", message=r".*have no effect in the current local runner")
        outputs = made(**arguments).outputs
    for output, name in (("report", "report.html"), ("data", "data.html"), ("summary", "summary.json")):
        shutil.copyfile(outputs[output].path, folder / name)
    shutil.copytree(outputs["model"].path, folder / "model", ignore=shutil.ignore_patterns(STEP_FILE))
    fresh = folder.parent / ".latest"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(folder.parent / "latest")
    return read_summary(folder / "summary.json")


@contextmanager
def _root_logger_as_it_was() -> Iterator[None]:
    """kfp.local (2.17) sets the root logger for each step and back, and two steps at once leave it as neither found it:
    with a handler that writes to the run's console when that is closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _for_this_machine(pipeline: Any) -> Iterator[None]:
    """A pipeline without what is the cluster's: retries, for a second try helps against a lost node and would only
    repeat the error here; and the names of images, which are not what runs here."""
    spec = pipeline.pipeline_spec
    with restored(pipeline):
        for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
            for task in dag.tasks.values():
                task.ClearField("retry_policy")
        for executor in spec.deployment_spec.fields["executors"].struct_value.fields.values():
            executor.struct_value.fields["container"].struct_value.fields.pop("env", None)
        yield


@contextmanager
def _task_outputs_in_loops() -> Iterator[None]:
    """Outputs of tasks enter a loop as they are: kfp.local (2.17) puts the loop's item in the place of each."""
    make = task_spec_utils.create_parameter_loop_iteration_task_spec

    def make_iteration(task: Any, item: Any, name: str) -> Any:
        made = make(task, item, name)
        for key, value in task.inputs.parameters.items():
            if value.HasField("task_output_parameter"):
                made.inputs.parameters[key].CopyFrom(value)
        return made

    with patch.object(task_spec_utils, make.__name__, make_iteration):
        yield


@contextmanager
def _explained_failures(log: Path) -> Iterator[None]:
    """The environment of the steps' processes, with a file that a failing step leaves its one line in; that line
    becomes the run's error."""
    limit_threads()
    os.environ.update(MALLOC_SETTINGS)
    with tempfile.TemporaryDirectory() as scratch:
        words = Path(scratch, "last-words")
        with patch.dict(os.environ, TERMINATION_LOG=str(words)):
            try:
                yield
            except RuntimeError as error:
                said = words.read_text().strip() if words.exists() else ""
                message = COLOURS.sub("", str(error))
                step = re.search(r"task failed: '([\w-]+)'", message)
                raise KubefaceError(
                    f"step {step[1] if step else 'unknown'} failed: {said or message} (log: {log})"
                ) from error


def new_run(prefix: str) -> Path:
    """A folder for a run that starts now."""
    return RUNS / time.strftime(f"{prefix}-%Y%m%d-%H%M%S")


# What is shown of each model, by task: heading, and the figures' key.
SHOWN = {
    RECOGNITION: {"accuracy": "accuracy", "AUC": "auc", "EER": "eer", "TAR@FAR=0.01": "tar_at_far"},
    ATTRIBUTES: {"mean AUC": "auc", "mean AP": "average_precision", "mean F1": "f1", "mean accuracy": "accuracy"},
    CLASSES: {"accuracy": "accuracy", "macro-F1": "macro_f1", "balanced accuracy": "balanced_accuracy"},
}
# What the starting model of a labelling task is: its features with a head of their own.
NAMES = {ATTRIBUTES: {"baseline": "features alone"}, CLASSES: {"baseline": "features alone", "scratch": "from scratch"}}


def _figures(summary: SummaryRecord) -> list[tuple[str, ...]]:
    """A table of the models on each set, that from scratch among them where there is one."""
    shown, names = SHOWN[summary.task], NAMES.get(summary.task, {})
    models = {"baseline": summary.baseline, "finetuned": summary.finetuned}
    if isinstance(summary, ClassesSummary) and summary.scratch:
        models["scratch"] = summary.scratch
    rows: list[tuple[str, ...]] = [("set", "model", *shown)]
    for name in summary.finetuned:
        for model, sets in models.items():
            if figures := sets.get(name):
                found = [figures[key] for key in shown.values()]
                shares = [value.get("0.01") if isinstance(value, dict) else value for value in found]
                cells = (f"{100 * share:.2f} %" if isinstance(share, int | float) else "-" for share in shares)
                rows.append((name, names.get(model, model), *cells))
    return rows


def print_outcome(summary: SummaryRecord, folder: Path) -> None:
    """What a person wants to know at the end of a run."""
    report = (folder / "report.html").resolve().as_uri()
    if not summary.trained:
        print(f"\n{summary.reason}\nmodel:   {summary.model.uri or 'none is promoted'}\nreport:  {report}")
        return
    print(f"\n{table(_figures(summary))}")
    print(f"\n{summary.verdict}: {summary.gate.reason}")
    if summary.task != RECOGNITION:
        fallback = summary.settings.get("fallback")
        print(f"start:   {summary.model.backbone}{f' ({fallback})' if fallback else ''}")
    print(f"model:   {summary.model.uri or folder / 'model'}")
    print(f"summary: {folder / 'summary.json'}")
    print(f"report:  {report}  ({sum(step.seconds for step in summary.steps.values()):.0f} s in the steps)")


def _flags() -> type[Options]:
    """The parameters of all pipelines as flags, none of which has to be given; those of steps as --align.detector."""
    found: dict[str, Any] = {}
    for kind in PIPELINES.values():
        for name, field in kind.model_fields.items():
            annotation: Any = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, Options):
                annotation = Annotated[annotation, Parameter(name=f"--{name}", show=False)]
            found.setdefault(name, (annotation | None, Field(None, description=field.description)))
    made: type[Options] = create_model("Flags", __base__=Options, **found)
    return made


def run(
    pipeline: str = FACE_FINETUNING,
    *,
    params: Path | None = None,
    folder: Path | None = None,
    cache: Path | None = None,
    flags: Options | None = None,
) -> None:
    """Runs a pipeline on this machine.

    Options of a step are flags with its name in front, as --align.detector retinaface or --finetune.epochs 4; `kubeface
    align --help` and so on list them.

    Args:
        pipeline: One of face-finetuning, low-resolution, face-attributes or image-classification.
        params: YAML or JSON file with parameters; flags go before it.
        folder: Folder of the run; runs/<pipeline>-<time> where it is not given.
        cache: Folder that remembers the outputs of earlier runs, to do only what is new.
        flags: The run's parameters.
    """
    values = merged(read_file(params) if params else {}, flags.model_dump(exclude_unset=True) if flags else {})
    read_parameters(pipeline, values)
    folder = folder or new_run(pipeline)
    print_outcome(run_local(values, folder, cache, pipeline=pipeline), folder)


run.__annotations__["flags"] = _flags()
