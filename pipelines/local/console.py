"""What a local run shows: the steps' own lines; everything that KFP says besides goes into the run's log."""

import io
import re
from pathlib import Path
from typing import TextIO

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Console(io.TextIOBase):
    """A standard output for kfp.local: all of it to a log file, without colours, the steps' lines to the terminal.

    kfp 2.17 prints each step's input as pages of JSON; a person watching wants the progress."""

    def __init__(self, log: Path, terminal: TextIO) -> None:
        self._log = open(log, "w", encoding="utf-8")
        self._terminal = terminal
        self._line = ""
        self._streaming = False
        self._json_end: str | None = None  # the line that ends a page of JSON, while in one

    def write(self, text: str) -> int:
        """Takes text in any pieces; a line is judged when it is whole."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._take(COLOURS.sub("", line))
        return len(text)

    def flush(self) -> None:
        self._log.flush()
        self._terminal.flush()

    def close(self) -> None:
        if not self.closed:
            super().close()  # flushes
            self._log.close()

    def _take(self, line: str) -> None:
        self._log.write(line + "\n")
        if started := re.search(r"Executing task '([\w-]+)'", line):
            self._show(f"── {started[1]}")
        elif "Streamed logs:" in line:
            self._streaming = True
        elif re.search(r"Task '[\w-]+' finished with status", line):
            self._streaming = False
        elif self._streaming:
            self._step_line(line)

    def _step_line(self, line: str) -> None:
        if self._json_end is not None:
            # kfp indents a step's lines unevenly: the closing brace stands where the opening one stood.
            if line.strip() == "{" and not self._json_end:
                self._json_end = line.replace("{", "}")
            elif line == self._json_end:
                self._json_end = None
        elif "[KFP Executor" in line:
            self._json_end = "" if line.endswith("Got executor_input:") else None
        elif line.strip():
            self._show(f"   {line.strip()}")

    def _show(self, line: str) -> None:
        print(line, file=self._terminal, flush=True)
