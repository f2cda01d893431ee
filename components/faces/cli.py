"""A command line for a step, made from its function: flags from the signature, help from the docstring."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import docstring_parser

from components.faces.runtime import MALLOC_SETTINGS, limit_threads, timed

Step = Callable[..., dict[str, Any]]


def add_flags(parser: argparse.ArgumentParser, step: Step) -> None:
    """One flag for each parameter of the step; those without default are required."""
    doc = docstring_parser.parse(inspect.getdoc(step) or "")
    texts = {entry.arg_name: entry.description or "" for entry in doc.params}
    hints = get_type_hints(step)
    parser.description = doc.short_description
    parser.set_defaults(step=step)
    for name, parameter in inspect.signature(step).parameters.items():
        flag, kind = f"--{name.replace('_', '-')}", hints[name]
        text = " ".join(texts[name].split()).replace("%", "%%")
        if parameter.default is inspect.Parameter.empty:
            parser.add_argument(flag, type=kind, required=True, help=text)
        elif kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=parameter.default, help=f"{text} (%(default)s)"
            )
        else:
            shown = "" if parameter.default == "" else " (%(default)s)"
            parser.add_argument(flag, type=kind, default=parameter.default, help=text + shown)


def parser_of(steps: Step | dict[str, Step]) -> argparse.ArgumentParser:
    """An argument parser for one step, or with a subcommand for each of several."""
    first = steps if not isinstance(steps, dict) else next(iter(steps.values()))
    parser = argparse.ArgumentParser(prog=f"python -m {first.__module__.rpartition('.')[0]}")
    if isinstance(steps, dict):
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        for name, step in steps.items():
            summary = docstring_parser.parse(inspect.getdoc(step) or "").short_description
            add_flags(commands.add_parser(name, help=summary), step)
    else:
        add_flags(parser, steps)
    return parser


def main(steps: Step | dict[str, Step], arguments: Sequence[str] | None = None) -> None:
    """Runs a step from the command line and prints its figures as JSON on standard output.

    Args:
        steps: the step's function, or functions by subcommand.
        arguments: instead of the process's own.
    """
    settings = vars(parser_of(steps).parse_args(arguments))
    if arguments is None and any(name not in os.environ for name in MALLOC_SETTINGS):
        # The allocator reads these once, at the start of a process.
        os.environ.update(MALLOC_SETTINGS)
        limit_threads()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    print(json.dumps(timed(settings.pop("step"), **settings), indent=2, sort_keys=True))
