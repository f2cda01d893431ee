"""The command `kubeface`: every step, the pipelines, what a model is used for, and the cluster.

Commands are imported when they are called: torch takes seconds, and an image carries one step. What a command takes is
read off its function: parameters from the signature, options from their model, help from the docstrings.
"""

import difflib
import functools
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError
from pydantic import BaseModel, ValidationError

from kubeface import __version__
from kubeface.runtime.errors import KubefaceError, exit_on_error
from kubeface.runtime.options import Options, explain
from kubeface.runtime.processors import MALLOC_SETTINGS, limit_threads

Function = Callable[..., Any]
USAGE_ERROR = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is imported when it is called.

    Args:
        function: <module>:<name>.
        help: what the list of commands says of it.
        heavy: it does numeric work: the allocator and the threads are set for that.
    """

    function: str
    help: str
    heavy: bool = False

    def load(self) -> Function:
        """Imports the command's function.

        Raises:
            KubefaceError: the module or a package that it needs is not installed.
        """
        module, _, name = self.function.partition(":")
        try:
            function: Function = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise KubefaceError(
                f"this command needs the package {error.name}, which is not installed here: see the extras of kubeface"
            ) from error
        return function


def _step(function: str, text: str) -> Command:
    return Command(function, text, heavy=True)


# By group, as the help shows them.
COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "Steps": {
        "ingest": _step("kubeface.ingest.step:ingest", "Read images of any source into a face table."),
        "superresolve": _step("kubeface.superresolve.step:superresolve", "Enlarge photographs of low resolution."),
        "align": _step("kubeface.align.step:align", "Find the faces of photographs and crop them."),
        "filter": _step(
            "kubeface.filter.step:filter_faces", "Score aligned faces with RetinaFace and say which to keep."
        ),
        "gather": _step("kubeface.gather.step:gather", "Merge the tables of all shards."),
        "audit": _step("kubeface.audit.step:audit", "Look for duplicates, wrong labels, leaks and drift."),
        "split": _step("kubeface.split.step:split", "Divide people into trained and held out."),
        "finetune": _step("kubeface.finetune.step:finetune", "Fine-tune a pretrained model."),
        "evaluate": _step("kubeface.evaluate.step:evaluate", "Compare a model with its start and the promoted one."),
        "evaluate-attributes": _step(
            "kubeface.evaluate.attributes:evaluate_attributes", "Compare a model of attributes with its features."
        ),
        "evaluate-classes": _step(
            "kubeface.evaluate.classes:evaluate_classes", "Compare a classifier with its features."
        ),
        "promote": _step("kubeface.promote.step:promote", "Publish a model if the evaluation found it better."),
        "report": _step("kubeface.report.step:report", "Make one run's page and its figures."),
        "notify": _step("kubeface.notify.step:notify", "Tell a webhook how a run ended."),
    },
    "Models": {
        "compare": _step("kubeface.evaluate.inference:compare", "Say whether two photographs show one person."),
        "embed": _step("kubeface.evaluate.inference:embed", "Embed the faces of a folder into a gallery."),
        "identify": _step("kubeface.evaluate.inference:identify", "Find a photograph's person in a gallery."),
        "attributes": _step("kubeface.evaluate.labelling:attributes", "Say which attributes photographs show."),
        "classify": _step("kubeface.evaluate.labelling:classify", "Say which class photographs belong to."),
        "lfw": _step("kubeface.evaluate.step:lfw", "Measure a model on LFW's View 2 or View 1."),
        "versions": Command("kubeface.promote.champion:list_versions", "List the versions of a promoted model."),
        "rollback": Command("kubeface.promote.champion:rollback", "Put an earlier version in force again."),
        "verify": Command("kubeface.promote.passport:verify", "Check a version's files against its passport."),
        "train-superresolution": _step(
            "kubeface.superresolve.training:train_superresolution", "Train a super-resolution network on faces."
        ),
        "degrade": _step("kubeface.superresolve.degradation:degrade", "Make pairs of low and high resolution."),
        "mirror-weights": Command(
            "kubeface.models.weights_mirror:mirror_weights", "Copy published weights to a mirror."
        ),
        "import-keras": _step("kubeface.models.keras_import:import_keras", "Make a model folder of a .keras archive."),
        "self-check": _step("kubeface.self_check:self_check", "Do a step's work on one real face."),
    },
    "Pipelines": {
        "run": Command("pipelines.local.run:run", "Run a pipeline on this machine."),
        "demo": Command("pipelines.local.demo:demo", "Run a pipeline on real faces, from a bucket to a model."),
        "demo-containers": Command(
            "pipelines.local.containers:demo_containers", "The demo, each step in its container."
        ),
        "plan": Command("pipelines.cluster.plan:plan", "Say what a run would do and cost."),
        "compile": Command("pipelines.build.compile:compile_pipelines", "Write the pipelines for Kubeflow Pipelines."),
    },
    "Images": {
        "images": Command("pipelines.build.images:build_images", "Build the steps' images."),
        "push": Command("pipelines.build.images:push_images", "Push the images and record their digests."),
        "run-step": Command("pipelines.build.images:run_step", "Run one step in its container."),
    },
    "Cluster": {
        "doctor": Command("pipelines.cluster.doctor:doctor", "Look at what a deployment and a run need."),
        "secret": Command("pipelines.cluster.secret:secret", "Put the S3 keys of the environment into the cluster."),
        "manifests": Command("pipelines.cluster.manifests:manifests", "Print an overlay as it is deployed."),
        "deploy": Command("pipelines.cluster.deploy:deploy", "Put an overlay and the pipelines on the cluster."),
        "undeploy": Command("pipelines.cluster.deploy:undeploy", "Delete what deploy made, but not data."),
        "submit": Command("pipelines.cluster.submit:submit", "Start a run."),
        "status": Command("pipelines.cluster.submit:status", "Say how a run and its steps stand."),
        "logs": Command("pipelines.cluster.submit:logs", "Print what a run's steps printed."),
        "cancel": Command("pipelines.cluster.submit:cancel", "Stop a run."),
        "resume": Command("pipelines.cluster.submit:resume", "Go on with a run from the step that failed."),
        "schedule": Command("pipelines.cluster.schedule:schedule", "Run a pipeline at times."),
        "schedules": Command("pipelines.cluster.schedule:schedules", "List the schedules."),
        "pause": Command("pipelines.cluster.schedule:pause", "Switch a schedule off."),
        "unpause": Command("pipelines.cluster.schedule:unpause", "Switch a schedule on."),
        "unschedule": Command("pipelines.cluster.schedule:unschedule", "Delete a schedule."),
    },
}


def _found(name: str) -> Command | None:
    return next((commands[name] for commands in COMMANDS.values() if name in commands), None)


def make_app(asked: str = "") -> App:
    """The command line.

    Args:
        asked: the command whose function is imported; of the others there is the name and a line of help.

    Raises:
        KubefaceError: the command that is asked for cannot be imported.
    """
    Parameter(name="*")(Options)  # a step's options are flags without the name of the parameter before them
    app = App(
        name="kubeface",
        help="Fine-tune a face-recognition model on your own people, and know whether it got better.",
        version=__version__,
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),  # --backbone a b, no --empty-backbone
    )
    for group, commands in COMMANDS.items():
        for name, command in commands.items():
            app.command(
                _options_by_name(command.load()) if name == asked else command.function,
                name=name,
                help=command.help,
                group=group,
            )
    return app


def _options_by_name(function: Function) -> Function:
    """The function with its options as flags alone: they have no place in the order of arguments."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Options)
        else parameter
        for parameter in signature.parameters.values()
    ]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__signature__ = signature.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))  # type: ignore[attr-defined]
    return call


def _one_line(error: CycloptsError) -> str:
    """What is wrong with a command line, and what to write instead."""
    if isinstance(error, UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        names = [name for commands in COMMANDS.values() for name in commands]
        close = difflib.get_close_matches(word, names, 1)
        return f"there is no command '{word}'" + (f", did you mean {close[0]}?" if close else ": see --help")
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return explain(cause, _model_named(cause.title))
    return " ".join(str(error).split())


def _model_named(name: str) -> type[BaseModel]:
    """The options of that name among those that are imported."""
    found: list[type[BaseModel]] = [BaseModel]
    kinds: list[type[BaseModel]] = [Options]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found += [kind] if kind.__name__ == name else []
    return found[-1]


def _prepare_process() -> None:
    """Starts the process anew with the allocator's settings, which it reads once, at the start of a process."""
    if any(name not in os.environ for name in MALLOC_SETTINGS):
        os.environ.update(MALLOC_SETTINGS)
        limit_threads()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; what it returns is printed as JSON on standard output.

    A KubefaceError ends the process with one line and exit code 1, a wrong command line with one line and exit code 2.
    Under torchrun only the first process prints.

    Args:
        arguments: instead of the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if not word.startswith("-")), "")
    app = exit_on_error(make_app, asked)
    try:
        function, bound, _ = app.parse_args(given)
    except CycloptsError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
    command = _found(asked)
    if arguments is None and command and command.heavy and "--help" not in given:
        _prepare_process()
    start = time.monotonic()
    result = exit_on_error(function, *bound.args, **bound.kwargs)
    if isinstance(result, BaseModel) and os.environ.get("RANK", "0") == "0":
        figures = result.model_dump(mode="json") | {"seconds": round(time.monotonic() - start, 2)}
        print(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
