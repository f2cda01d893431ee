"""A program in the place of kubectl, on the PATH."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
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

# What shows some objects and logs: a line of a log was printed at as many seconds after 17:00 as lines are before it;
# one that begins with ! has no time.
RUNNING = """
lists, logs = {lists!r}, {logs!r}
verb, what, *flags = sys.argv[1:]
if verb == "get":
    kind, items = lists[what]
    if "--output=name" in flags:
        print("\\n".join("name" for item in items), end="")
    else:
        print(json.dumps({{"kind": kind, "items": items}}))
    sys.exit()
lines = logs.get(what, ["log of " + what])
if lines is None:
    sys.exit("Error from server (BadRequest): container main in pod " + what + " is waiting to start")
if "--timestamps" in flags:
    time_of = "2026-11-30T17:{{:02d}}:{{:02d}}.000000000Z ".format
    lines = [line[1:] if line[:1] == "!" else time_of(n // 60, n % 60) + line for n, line in enumerate(lines)]
    since = [flag.partition("=")[2] for flag in flags if flag.startswith("--since-time=")]
    lines = [line for line in lines if not since or line >= since[0]]
print("\\n".join(lines[-1:] if "--tail=1" in flags else lines))
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


def run_kubectl(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *pods: object,
    workflows: Sequence[object] = (),
    logs: Mapping[str, Sequence[str] | None] | None = None,
) -> FakeKubectl:
    """Has the program show these objects, and the lines of logs by pod (None: its container has not begun); a pod
    without lines says `log of <pod>`."""
    lists = {"pods": ("PodList", list(pods)), "workflows.argoproj.io": ("WorkflowList", list(workflows))}
    return fake_kubectl(folder, monkeypatch, RUNNING.format(lists=lists, logs=dict(logs or {})))
