"""A program in the place of kubectl, on the PATH."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = """#!{python}
import json, os, sys, time
given = sys.stdin.read() if sys.argv[1] == "apply" else ""
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([sys.argv[1:], given]) + "\\n")
{body}
"""


@dataclass(frozen=True)
class FakeKubectl:
    """The program; it keeps what it is asked."""

    program: Path

    def does(self, body: str) -> "FakeKubectl":
        """Has it run some lines of Python."""
        calls = str(self.program.with_name("calls"))
        self.program.write_text(SCRIPT.format(python=sys.executable, calls=calls, body=body))
        return self

    def calls(self) -> list[tuple[list[str], str]]:
        """Arguments and, of `apply`, standard input of each call so far."""
        path = self.program.with_name("calls")
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self) -> list[str]:
        """The arguments of each call in one line."""
        return [" ".join(arguments) for arguments, _ in self.calls()]


def fake_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "") -> FakeKubectl:
    """Puts the program into folder/bin and first on the PATH."""
    program = folder / "bin" / "kubectl"
    program.parent.mkdir(exist_ok=True)
    program.touch(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return FakeKubectl(program).does(body)
