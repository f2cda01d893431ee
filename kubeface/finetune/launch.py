"""A training on this machine: in this process, or in one for each GPU."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import BaseModel, ConfigDict

from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.result import FinetuneResult
from kubeface.finetune.step import Decision, finetune
from kubeface.models.model import choose_device
from kubeface.runtime.errors import require

ERROR = "error: "  # what the lines of kubeface.runtime.errors.report_error begin with


class Job(BaseModel):
    """A training as its processes are told of it, in JSON on their command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    aligned: str
    split: str
    out: Path
    options: FinetuneOptions
    champion: str = ""
    decision: Decision = "train"
    result: str = ""
    """File or s3:// address for what the step returns."""
    upload: str = ""
    """s3:// address to copy the model folder to; empty where `out` is where it is wanted."""

    def text(self) -> str:
        """The job as one argument; options that nobody set are left out, so that a recipe's stand in their place."""
        options = self.options.model_dump(mode="json", include=set(self.options.model_fields_set))
        return json.dumps(self.model_dump(mode="json") | {"options": options})

    def run(self) -> FinetuneResult:
        """Trains in this process, under torchrun together with others."""
        return finetune(self.aligned, self.split, self.out, self.options, self.champion, self.decision)


def launch(job: Job) -> FinetuneResult:
    """Fine-tunes in as many processes as there are GPUs; otherwise as `finetune`.

    Raises:
        KubefaceError: as `finetune`; a process failed, whose last words it has.
    """
    count = local_processes(job.options.device)
    if count == 1:
        return job.run()
    with TemporaryDirectory() as scratch:
        result = Path(scratch, "result.json")
        run_torchrun(count, job.model_copy(update={"result": str(result)}))
        return FinetuneResult.read(result)


def local_processes(device: str) -> int:
    """One process for each GPU that this pod sees; one on the CPU, whose threads share the work."""
    return max(1, torch.cuda.device_count()) if choose_device(device).type == "cuda" else 1


def run_torchrun(count: int, job: Job) -> None:
    """Runs a job in several processes of this machine, whose output is shown as it comes; raises KubefaceError with the
    first error of one that failed."""
    command = ["--standalone", "--nproc-per-node", str(count), "-m", "kubeface.finetune.node"]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command, job.text()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        message = first_error(shown(process.stdout or ()))
        status = process.wait()
    finally:
        process.terminate()
    require(status == 0, message or f"fine-tuning in {count} processes ended with exit code {status}: see the log")


def shown(lines: Iterable[str]) -> Iterable[str]:
    """The lines, each printed as it passes."""
    for line in lines:
        print(line.rstrip("\n"), flush=True)
        yield line


def first_error(lines: Iterable[str]) -> str:
    """What the first line with an error says, empty for none; those that follow come from processes it left alone."""
    found = [line.strip().removeprefix(ERROR) for line in lines if line.strip().startswith(ERROR)]
    return found[0] if found else ""
