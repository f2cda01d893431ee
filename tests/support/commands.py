"""The command `kubeface` as a user starts it, in a process and a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_in(folder: Path, *command: str, timeout: float) -> str:
    """Runs a command in a folder elsewhere than in the repository, without what other tests have set; what it said."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("S3_", "AWS_", "OMP_"))}
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
