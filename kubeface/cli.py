"""The command `kubeface`: every step, the pipelines, what a model is used for, and the cluster.

A command is imported when it is called: torch takes seconds to import, and an image carries one step. What a command
takes is read from its function: parameters from the signature, options from their model, help from the docstrings.
"""

import difflib
import functools
import importlib
import inspect
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ValidationError

from kubeface import __version__
from kubeface.runtime.errors import KubefaceError, exit_on_error, report_error
from kubeface.runtime.options import Options, explain
from kubeface.runtime.processors import MALLOC_SETTINGS, limit_threads

Function = Callable[..., Any]
USAGE_ERROR = 2
HELP_FLAGS = ("--help", "-h")
EMPTY_DEFAULTS = ("None", "", "''", '""', "()", "[]", "{}")  # that the help does not show
SCREEN_LINES = 50  # of a command's help; see `_fitting`


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is imported when it is called."""

    function: str  # <module>:<name>
    help: str  # what the help says it does, in one line
    heavy: bool = False  # it does numeric work: its process gets the allocator's settings and a limit on threads

    def load(self) -> Function:
        """Imports the command's function. Raises KubefaceError if its module or a package that it needs is not
        installed here."""
        module, _, name = self.function.partition(":")
        try:
            function: Function = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing.partition(".")[0] in ("kubeface", "pipelines"):
                raise KubefaceError(
                    f"{missing} is not in this image, which carries one step: use the image of that step, or an "
                    "installation of kubeface"
                ) from error
            raise KubefaceError(
                f"this command needs the package {missing}, which is not installed here: see the extras of kubeface"
            ) from error
        return function


def _step(function: str, text: str) -> Command:
    """A command of the library that does numeric work."""
    return Command(f"kubeface.{function}", text, heavy=True)


# By group, as the help shows them.
COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "Steps": {
        "ingest": _step("ingest.step:ingest", "Read images of any source into a face table."),
        "superresolve": _step("superresolve.step:superresolve", "Enlarge photographs of low resolution."),
        "align": _step("align.step:align", "Find the faces of photographs and crop them."),
        "filter": _step("filter.step:filter_faces", "Score aligned faces with RetinaFace and say which to keep."),
        "gather": _step("gather.step:gather", "Merge the tables of all shards."),
        "audit": _step("audit.step:audit", "Look for duplicates, wrong labels, leaks and drift."),
        "split": _step("split.step:split", "Divide people into trained and held out."),
        "finetune": _step("finetune.step:finetune", "Fine-tune a pretrained model."),
        "evaluate": _step("evaluate.step:evaluate", "Compare a model with its start and the promoted one."),
        "evaluate-attributes": _step(
            "evaluate.attributes:evaluate_attributes", "Compare a model of attributes with its features."
        ),
        "evaluate-classes": _step("evaluate.classes:evaluate_classes", "Compare a classifier with its features."),
        "promote": _step("promote.step:promote", "Publish a model if the evaluation found it better."),
        "report": _step("report.step:report", "Make one run's page and its figures."),
        "notify": _step("notify.step:notify", "Tell a webhook how a run ended."),
    },
    "Models": {
        "compare": _step("evaluate.inference:compare", "Say whether two photographs show one person."),
        "embed": _step("evaluate.inference:embed", "Embed the faces of a folder into a gallery."),
        "identify": _step("evaluate.inference:identify", "Find a photograph's person in a gallery."),
        "attributes": _step("evaluate.labelling:attributes", "Say which attributes photographs show."),
        "classify": _step("evaluate.labelling:classify", "Say which class photographs belong to."),
        "lfw": _step("evaluate.step:lfw", "Measure a model on LFW's View 2 or View 1."),
        "versions": Command("kubeface.promote.champion:list_versions", "List the versions of a promoted model."),
        "rollback": Command("kubeface.promote.champion:rollback", "Put an earlier version in force again."),
        "verify": Command("kubeface.promote.passport:verify", "Check a version's files against its passport."),
        "train-superresolution": _step(
            "superresolve.training:train_superresolution", "Train a super-resolution network on faces."
        ),
        "degrade": _step("superresolve.degradation:degrade", "Make pairs of low and high resolution."),
        "mirror-weights": Command(
            "kubeface.models.weights_mirror:mirror_weights", "Copy published weights to a mirror."
        ),
        "import-keras": _step("models.keras_import:import_keras", "Make a model folder of a .keras archive."),
        "self-check": _step("self_check:self_check", "Do a step's work on one real face."),
    },
    "Pipelines": {
        "run": Command("pipelines.local.run:run", "Run a pipeline on this machine."),
        "demo": Command("pipelines.local.demo:demo", "Run a pipeline on real faces, from a bucket to a model."),
        "demo-containers": Command(
            "pipelines.local.containers:demo_containers", "The demo, each step in its container."
        ),
        "plan": Command("pipelines.cluster.plan:plan", "Say what a run would do and cost."),
        "compile": Command("pipelines.build.compile:compile_pipelines", "Write the pipelines for Kubeflow Pipelines."),
        "docs": Command("pipelines.build.docs:write_docs", "Write the tables of options in the documentation."),
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
        "deploy": Command("pipelines.cluster.deployment:deploy", "Put an overlay and the pipelines on the cluster."),
        "undeploy": Command("pipelines.cluster.deployment:undeploy", "Delete what deploy made, but not data."),
        "submit": Command("pipelines.cluster.submit:submit", "Start a run."),
        "status": Command("pipelines.cluster.status:status", "Say how a run and its steps stand."),
        "logs": Command("pipelines.cluster.logs:logs", "Print what a run's steps printed."),
        "cancel": Command("pipelines.cluster.submit:cancel", "Stop a run."),
        "resume": Command("pipelines.cluster.submit:resume", "Go on with a run that failed or was cancelled."),
        "schedule": Command("pipelines.cluster.schedule:schedule", "Run a pipeline at times."),
        "schedules": Command("pipelines.cluster.schedule:schedules", "List the schedules."),
        "pause": Command("pipelines.cluster.schedule:pause", "Switch a schedule off."),
        "unpause": Command("pipelines.cluster.schedule:unpause", "Switch a schedule on."),
        "unschedule": Command("pipelines.cluster.schedule:unschedule", "Delete a schedule, once its run has ended."),
    },
}


def find_command(name: str) -> Command:
    """The command of this name. Raises KubefaceError if there is none; the nearest name is given."""
    known = {name: command for commands in COMMANDS.values() for name, command in commands.items()}
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise KubefaceError(
            f"there is no command '{name}'" + (f", did you mean {close[0]}?" if close else ": see kubeface --help")
        )
    return known[name]


def overview() -> str:
    """The help of `kubeface` itself: every command in its group."""
    width = max(len(name) for commands in COMMANDS.values() for name in commands)
    lines = [
        "Fine-tune a face-recognition model on your own people, and know whether it got better.",
        "",
        "usage: kubeface COMMAND …        kubeface COMMAND --help [WORD]        kubeface --version",
    ]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:{width}}  {command.help}" for name, command in commands.items())]
    return "\n".join(lines)


def make_app(name: str, command: Command, word: str = "") -> Any:
    """The command line of one command, a `cyclopts.App`; its help is about a word where one is given. Raises
    KubefaceError if the command's function cannot be imported."""
    from cyclopts import App, Parameter  # not needed for the list of commands, which is to be there at once

    app = App(
        name=f"kubeface {name}",
        help=command.help,
        version_flags=(),
        help_format="plaintext",
        help_formatter=functools.partial(_print_parameters, word),
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),  # --backbone a b, no --empty-backbone
    )
    app.default(_with_keyword_options(command.load()))
    return app


def _options_of(function: Function) -> list[str]:
    """Names of the parameters that are options."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [p.name for p in parameters if isinstance(p.annotation, type) and issubclass(p.annotation, Options)]


def _with_keyword_options(function: Function) -> Function:
    """The function with its options, and what comes after them, by keyword only.

    A field of the options is a flag by its own name, one of a model inside them carries that model's name in front.
    """
    from cyclopts import Parameter  # see make_app

    signature, options = inspect.signature(function, eval_str=True), _options_of(function)
    parameters = list(signature.parameters.values())
    for place, parameter in enumerate(parameters):
        if parameter.name in options:
            flags = Annotated[parameter.annotation, Parameter(name="*")]  # type: ignore[name-defined]
            parameters[place] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=flags)
        elif place and parameters[place - 1].kind is inspect.Parameter.KEYWORD_ONLY:
            parameters[place] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _print_parameters(word: str, console: Any, options: Any, panel: Any) -> None:
    """Prints a command's parameters whose name or description has the word as plain text, on one screen: cyclopts'
    `HelpFormatter`."""
    if panel.format != "parameter":
        return
    rows = []
    for entry in panel.entries:
        label, text = ", ".join(entry.display_labels_with_metavar), _plain(entry.description)
        if entry.choices:
            label = label.replace("CHOICE", "|".join(entry.choices))
        default = "required" if entry.required else str(entry.default)
        rows.append((label, text, "" if default in EMPTY_DEFAULTS else f" [{default}]"))
    rows = [row for row in rows if word.lower() in f"{row[0]} {row[1]}".lower()]
    lines = _fitting(rows, shutil.get_terminal_size().columns)
    print("\n".join(lines or [f"no parameter has '{word}' in its name or description"]), file=console.file)


def _plain(description: Any) -> str:
    text = getattr(description, "primary_renderable", description)
    return " ".join(str(getattr(text, "plain", text) or "").split())


def _fitting(rows: Sequence[tuple[str, str, str]], columns: int) -> list[str]:
    """Lines of labels and descriptions that fit on a screen: whole, or the beginning of each, or the options' names."""
    indent = 32
    whole = []
    for label, text, default in rows:
        lines = textwrap.wrap(f"{text}{default}", max(20, columns - indent)) or [""]
        if len(label) + 4 > indent:
            whole.append(f"  {label}")
        else:
            lines[0] = f"  {label:{indent - 2}}{lines[0]}"
        whole += [line if line.startswith("  ") else " " * indent + line for line in lines]
    if len(whole) <= SCREEN_LINES:
        return whole
    short = []
    for label, text, default in rows:
        room = columns - max(indent, len(label) + 4) - len(default)
        short.append(f"  {label:{indent - 4}}  {textwrap.shorten(text, max(10, room), placeholder='…')}{default}")
    if len(short) <= SCREEN_LINES:
        return short
    places = [line for line, (label, *_) in zip(short, rows, strict=True) if not label.startswith("-")]
    flags = [f"{label}{default}".replace(" ", "\u00a0") for label, _, default in rows if label.startswith("-")]
    names = textwrap.wrap(
        "  ".join(flags), columns, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return [
        *places,
        "",
        *(name.replace("\u00a0", " ") for name in names),
        "",
        "  --help WORD describes those with WORD.",
    ]


def _explain_usage(error: Exception, function: Function) -> str:
    """One line on what is wrong with a command line."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        parameters = inspect.signature(function, eval_str=True).parameters
        kinds = {parameters[name].annotation.__name__: parameters[name].annotation for name in _options_of(function)}
        return explain(cause, kinds.get(cause.title, BaseModel))
    return " ".join(str(error).split()).rstrip(".")


def _fail_usage(message: str) -> NoReturn:
    report_error(message)
    raise SystemExit(USAGE_ERROR)


def _help_word(arguments: list[str]) -> tuple[str, list[str]]:
    """What help is asked about, and the arguments: --help alone where it is among them."""
    places = [index for index, word in enumerate(arguments) if word in HELP_FLAGS]
    if not places:
        return "", arguments
    return "".join(arguments[places[0] + 1 : places[0] + 2]), ["--help"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command, of the arguments or of the process's own. A record that it returns is printed as JSON with the
    seconds it took, a text as it is.

    A KubefaceError ends the process with one line and exit code 1, a wrong command line with one line and exit code 2.
    Under torchrun only the first process prints."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in (*HELP_FLAGS, "--version"):
        print(__version__ if name == "--version" else overview())
        return
    try:
        command = find_command(name)
    except KubefaceError as error:
        _fail_usage(str(error))
    word, rest = _help_word(rest)
    heavy = arguments is None and command.heavy and rest[:1] != ["--help"]
    if heavy and any(setting not in os.environ for setting in MALLOC_SETTINGS):
        # The process begins anew, since the allocator reads its settings once, at the start of a process.
        os.environ.update(MALLOC_SETTINGS)
        limit_threads()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    app = exit_on_error(make_app, name, command, word)
    try:
        function, bound, _ = app.parse_args(rest)
    except Exception as error:
        if not type(error).__module__.startswith("cyclopts"):
            raise
        _fail_usage(f"{name}: {_explain_usage(error, app.default_command)}")
    start = time.monotonic()
    try:
        result = exit_on_error(function, *bound.args, **bound.kwargs)
    except BrokenPipeError:  # of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    if os.environ.get("RANK", "0") != "0":
        return
    if isinstance(result, BaseModel | dict):
        values = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
        figures = values | {"seconds": round(time.monotonic() - start, 2)}
        print(json.dumps(figures, indent=2, sort_keys=True))
    elif isinstance(result, str):
        print(result)


if __name__ == "__main__":
    main()
