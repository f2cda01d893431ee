"""The one exception that a user is meant to read, and how it ends a process."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class KubefaceError(Exception):
    """One line that names the file, the field or the image, and says what to do; line breaks in it become spaces.

    The command line and the components print it without a traceback and exit with 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"\s*[\r\n]\s*", " ", message.strip()))


def require(condition: bool, message: str) -> None:
    """Raises KubefaceError(message) unless the condition holds."""
    if not condition:
        raise KubefaceError(message)


def report_error(message: str) -> None:
    """Prints `error: …` and leaves the line where Kubernetes reads a pod's last words.

    TERMINATION_LOG names another file than /dev/termination-log.
    """
    print(f"error: {message}", file=sys.stderr, flush=True)
    try:
        Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log")).write_text(message + "\n")
    except OSError:
        pass  # not in a pod


def exit_on_error(action: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Calls a function; a KubefaceError ends the process with one line and exit code 1."""
    try:
        return action(*args, **kwargs)
    except KubefaceError as error:
        report_error(str(error))
        raise SystemExit(1) from None
