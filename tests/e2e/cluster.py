"""What a user does on a cluster with Kubeflow Pipelines: the command `kubeface` and kubectl, each in a process."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubeface.storage import objects

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "kubeflow"  # a Kubeflow Pipelines of one user runs its pipelines in its own
CONTEXT = [f"--context={os.environ['KUBE_CONTEXT']}"] if os.environ.get("KUBE_CONTEXT") else []
KUBECTL = ["kubectl", *CONTEXT, f"--namespace={NAMESPACE}"]
SECRET, STORE, BUCKET = "mlpipeline-minio-artifact", "kubeface-store", "kubeface"
ENDED = {"SUCCEEDED", "FAILED", "CANCELED"}


def command(*words: object) -> str:
    """What `kubeface` with these words printed; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "kubeface", *map(str, words)],
        cwd=ROOT, env=os.environ | {"KFP_NAMESPACE": NAMESPACE}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def kubectl(*words: str) -> str:
    """What kubectl printed, in the namespace of the runs."""
    done = subprocess.run([*KUBECTL, *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Status:
    """A run as `kubeface status` shows it: its state, and that of each step in the pipeline's order."""

    state: str
    steps: dict[str, str]
    text: str

    @classmethod
    def of(cls, run: str) -> "Status":
        """That of a run now."""
        text = command("status", run)
        rows = re.findall(
            r"^([\w-]+) +(SUCCEEDED|CACHED|SKIPPED|FAILED|RUNNING|PENDING|CANCELED|not begun)", text, re.M
        )
        return cls(re.split(r":\s+", text.splitlines()[0])[-1].split()[0], dict(rows), text)

    @property
    def cached(self) -> set[str]:
        """The steps that the cache served."""
        return {step for step, state in self.steps.items() if state == "CACHED"}


def submitted(values: dict[str, Any], folder: Path) -> str:
    """Starts a run; its id."""
    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump(values))
    return found(r"^run: +(\S+)$", command("submit", file))


def found(pattern: str, text: str) -> str:
    """The one group of a pattern that must be in a text."""
    match = re.search(pattern, text, re.M)
    assert match, text
    return match[1]


def wait(run: str, minutes: float = 15, until: tuple[str, str] | None = None) -> Status:
    """How a run ended, or stood when a step had come to a state (`until`, step and state)."""
    end = time.monotonic() + 60 * minutes
    while True:
        status = Status.of(run)
        if status.state in ENDED or (until and status.steps.get(until[0]) == until[1]):
            return status
        assert time.monotonic() < end, f"after {minutes} minutes:\n{status.text}"
        time.sleep(10)


@contextmanager
def store() -> Iterator[None]:
    """The cluster's store within reach of this process, by its keys and a port of loopback."""
    keys = json.loads(kubectl("get", "secret", SECRET, "--output=json"))["data"]
    forward = subprocess.Popen(
        [*KUBECTL, "port-forward", f"service/{STORE}", ":8333"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert forward.stdout is not None
        port = found(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        os.environ |= {
            "S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": base64.b64decode(keys["accesskey"]).decode(),
            "AWS_SECRET_ACCESS_KEY": base64.b64decode(keys["secretkey"]).decode(),
        }
        objects.ensure_bucket(BUCKET)
        yield
    finally:
        forward.terminate()
        forward.wait()
