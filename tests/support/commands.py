"""The command `kubeface` as a user starts it, in a process and a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kubeface.cli import main
from kubeface.records.summary import SummaryRecord, read_summary
from kubeface.runtime.processors import MALLOC_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models"}  # parameters of a run
Told = Callable[..., str]
Files = tuple[str | Path, ...]


def run_in(folder: Path, *command: str, timeout: float) -> str:
    """Runs a command in a folder elsewhere than in the repository, without what other tests have set; what it said."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("S3_", "AWS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "kubeface", *command],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def run_demo(folder: Path, which: str) -> tuple[Path, SummaryRecord, str]:
    """Folder and summary of a demo's run, and what it printed."""
    said = run_in(folder, "demo", which, timeout=900)
    run = folder / "runs" / "latest"
    return run, read_summary(run / "summary.json"), said


def run_python(program: str, *arguments: object) -> str:
    """What a program printed that ran in a process of its own, in the repository."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON at the end of what it printed."""
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out[self.out.index("{") :])
        return found


# A None in sys.modules would be taken for torch by scipy, which looks there whether somebody imported it.
_WITHOUT = """
import contextlib, io, json, sys
hidden, commands = json.loads(sys.argv[1])
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from kubeface.cli import main
from kubeface.records.summary import SummaryRecord, read_summary
done = []
for arguments in commands:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def run_without(packages: Sequence[str], *commands: Sequence[str]) -> list[Done]:
    """Runs commands one after the other, in a process that cannot import some packages."""
    given = [sys.executable, "-c", _WITHOUT, json.dumps([packages, commands])]
    env = os.environ | MALLOC_SETTINGS
    done = subprocess.run(given, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Done(*entry) for entry in json.loads(done.stdout)]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """The one line that a command ends with in this process, and nothing else on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    line = lines[0]
    assert line.startswith("error: ")
    return str(line)
