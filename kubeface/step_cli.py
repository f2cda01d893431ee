"""A command line for a step, made from its function: flags from the signature, help from the docstring."""

import argparse
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import BaseModel

from kubeface.runtime.errors import exit_on_error
from kubeface.runtime.process import timed
from kubeface.runtime.processors import MALLOC_SETTINGS, limit_threads
from kubeface.self_check import self_check

Step = Callable[..., dict[str, Any]]
Models = Mapping[str, type[BaseModel]]
SELF_CHECK = "--self-check"


@dataclass(frozen=True)
class Later:
    """A step of several that is imported only when its command is given: torch takes seconds, and is not everywhere.

    Args:
        module: name of the module.
        function: name of the step's function in it.
        summary: what the list of commands says of it.
        models: see `add_flags`; None for those of the command line.
    """

    module: str
    function: str
    summary: str
    models: Models | None = None

    def load(self) -> Step:
        """Imports the step."""
        step: Step = getattr(importlib.import_module(self.module), self.function)
        return step


Steps = Step | Mapping[str, Step | Later]


def add_flags(parser: argparse.ArgumentParser, step: Step, models: Models | None = None) -> None:
    """One flag for each parameter of the step; those without default are required.

    Positional-only parameters (before a `/` in the signature) are arguments without a flag, a Sequence takes one or
    more. Dictionaries and lists are given as JSON.

    Args:
        models: parameters that are dictionaries, with the model of their entries: each entry is a flag of its own,
            collected again by `collected`.
    """
    doc = docstring_parser.parse(inspect.getdoc(step) or "")
    texts = {entry.arg_name: entry.description or "" for entry in doc.params}
    hints = get_type_hints(step)
    parser.description = doc.short_description
    parser.set_defaults(step=step)
    for name, parameter in inspect.signature(step).parameters.items():
        flag, kind = _flag(name), hints[name]
        if get_origin(kind) is UnionType:  # Path | None
            kind = get_args(kind)[0]
        text = " ".join(texts[name].split()).replace("%", "%%")
        if models and name in models:
            _add_entries(parser.add_argument_group(name, text), name, models[name])
            continue
        if get_origin(kind) in (dict, list):
            kind = _Json(get_origin(kind))
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            several = {"type": get_args(kind)[0], "nargs": "+"} if get_origin(kind) is Sequence else {"type": kind}
            parser.add_argument(name, metavar=name.upper(), help=text, **several)
        elif get_origin(kind) is Sequence:
            parser.add_argument(flag, type=get_args(kind)[0], nargs="+", required=True, help=text)
        elif parameter.default is inspect.Parameter.empty:
            parser.add_argument(flag, type=kind, required=True, help=text)
        elif kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=parameter.default, help=f"{text} (%(default)s)"
            )
        else:
            shown = " (%(default)s)" if parameter.default or parameter.default == 0 else ""
            parser.add_argument(flag, type=kind, default=parameter.default, help=text + shown)


class _Json:
    """Reads an argument that is a dictionary or a list.

    Args:
        kind: dict or list.
    """

    def __init__(self, kind: Any) -> None:
        self.kind, self.__name__ = kind, f"JSON {'object' if kind is dict else 'list'}"  # as argparse calls it

    def __call__(self, text: str) -> Any:
        """The value; ValueError where it is none of the kind."""
        value = json.loads(text)
        if not isinstance(value, self.kind):
            raise ValueError
        return value


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_entries(group: Any, name: str, model: type[BaseModel]) -> None:
    """Flags for the fields of a model; one that is not given is not set, so that the model's own default counts."""
    for entry, field in model.model_fields.items():
        text = f"{field.description or ''} ({field.default})".replace("%", "%%")
        kind: dict[str, Any] = {"metavar": entry.upper()}
        if field.annotation is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif get_origin(field.annotation) is tuple:
            kind |= {"nargs": len(get_args(field.annotation))}
        group.add_argument(_flag(entry), dest=f"{name}.{entry}", default=argparse.SUPPRESS, help=text, **kind)


def collected(arguments: dict[str, Any], models: Models | None = None) -> dict[str, Any]:
    """What a step's flags gave, `step` among it, with the entries of dictionaries put together again."""
    parameters = inspect.signature(arguments["step"]).parameters
    found: dict[str, Any] = {name: _entries(parameters[name]) for name in models or {} if name in parameters}
    for name, value in arguments.items():
        where, _, entry = name.partition(".")
        if entry:
            found.setdefault(where, {})[entry] = value
        else:
            found[name] = value
    return found


def _entries(parameter: inspect.Parameter) -> dict[str, Any]:
    """What a dictionary holds by default, which flags may set otherwise."""
    return dict(parameter.default) if isinstance(parameter.default, Mapping) else {}


def parser_of(steps: Steps, models: Models | None = None, command: str = "") -> argparse.ArgumentParser:
    """An argument parser for one step, or with a subcommand for each of several.

    Args:
        steps: see `main`.
        models: see `add_flags`.
        command: the subcommand that is asked for; of the others, what is to be imported later has no flags yet.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {_package_of(steps)}",
        epilog=f"{SELF_CHECK} alone: do the step's work on one real face and say ok, to see that an image is whole.",
    )
    if not isinstance(steps, Mapping):
        add_flags(parser, steps, models)
        return parser
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, step in steps.items():
        if isinstance(step, Later):
            flags = commands.add_parser(name, help=step.summary)
            if name == command:
                add_flags(flags, step.load(), step.models or models)
        else:
            summary = docstring_parser.parse(inspect.getdoc(step) or "").short_description
            add_flags(commands.add_parser(name, help=summary), step, models)
    return parser


def _package_of(steps: Steps) -> str:
    first = next(iter(steps.values())) if isinstance(steps, Mapping) else steps
    module = first.module if isinstance(first, Later) else first.__module__
    return module.rpartition(".")[0]


def main(steps: Steps, arguments: Sequence[str] | None = None, models: Models | None = None) -> None:
    """Runs a step from the command line and prints its figures as JSON on standard output.

    Under torchrun only the first process prints. `--self-check` alone runs kubeface/self_check.py instead.

    Args:
        steps: the step's function, or functions by subcommand.
        arguments: instead of the process's own.
        models: see `add_flags`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    check = given == [SELF_CHECK]
    settings = {} if check else collected(vars(parser_of(steps, models, "".join(given[:1])).parse_args(given)), models)
    if arguments is None and any(name not in os.environ for name in MALLOC_SETTINGS):
        # The allocator reads these once, at the start of a process.
        os.environ.update(MALLOC_SETTINGS)
        limit_threads()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if check:
        print(exit_on_error(self_check, step=_package_of(steps).rpartition(".")[2]))
        return
    step: Step = settings.pop("step")
    parameters = inspect.signature(step).parameters.values()
    places = [settings.pop(p.name) for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    figures = timed(partial(step, *places), **settings)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(figures, indent=2, sort_keys=True))
