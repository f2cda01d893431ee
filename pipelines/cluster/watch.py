"""Looking again every few seconds: over connections that break, and with one line that says what is waited for."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipelines.cluster.client import Client, Unreachable, connect

POLL_SECONDS = 5.0
LOST_SECONDS = 600.0  # how long a connection may be lost
INTERRUPTED = 130  # exit code after Ctrl-C
LINE_SECONDS = 60.0  # between two lines where standard error is no terminal
Answer = TypeVar("Answer")


def rest() -> None:
    """Lets the time between two looks go by."""
    time.sleep(POLL_SECONDS)


def poll(read: Callable[[Client], Answer]) -> Iterator[Answer]:
    """What is read every few seconds, for as long as the caller asks. Once something was read, a connection that is
    lost (a forwarded port ends with the pod behind it) is made anew. Raises KubefaceError if that takes too long, or
    KFP refuses something."""
    answered = False
    lost_at: float | None = None
    while True:
        try:
            with connect() as client:
                while True:
                    answer = read(client)
                    answered, lost_at = True, None
                    yield answer
                    rest()
        except Unreachable:
            lost_at = time.monotonic() if lost_at is None else lost_at
            if not answered or time.monotonic() - lost_at > LOST_SECONDS:
                raise
            rest()


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Ctrl-C ends the process without more words."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def cut_to_terminal(line: str) -> str:
    """A line, or as much of it as the terminal is wide."""
    columns = shutil.get_terminal_size().columns
    return line if len(line) <= columns else f"{line[: columns - 1]}…"


class WaitingLine:
    """One line on standard error; a terminal shows it rewritten, others get it anew every minute."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._last: float | None = None

    def __enter__(self) -> "WaitingLine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_terminal and self._last is not None:
            print(file=sys.stderr)

    def show(self, text: str) -> None:
        """Shows a text in place of the one before."""
        now = time.monotonic()
        if self._on_terminal:
            print(f"\r{cut_to_terminal(text)}\x1b[K", end="", file=sys.stderr, flush=True)
        elif self._last is None or now - self._last >= LINE_SECONDS:
            print(text, file=sys.stderr, flush=True)
        else:
            return
        self._last = now
