"""Where a training runs: in this process, in one for each GPU of this pod, or on several nodes."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kubeface.finetune.step import finetune
from kubeface.models.model import choose_device
from kubeface.runtime.errors import require

ERROR = "error: "  # what the lines of kubeface.runtime.process.report_error begin with


@dataclass(frozen=True)
class Nodes:
    """The nodes of a training and, where there are several, what they need to find the data and hand on the model.

    count: how many; resources: what each one's pod gets, by name; runtime: Kubeflow Trainer's ClusterTrainingRuntime;
    aligned, split, model: addresses of the inputs and of the model, in a store that all of them reach.
    """

    count: int = 1
    resources: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = "torch-distributed"
    aligned: str = ""
    split: str = ""
    model: str = ""


def launch(nodes: Nodes, **arguments: Any) -> dict[str, Any]:
    """Fine-tunes in as many processes as there are GPUs, on as many nodes as asked for.

    Args:
        nodes: where to.
        arguments: of `kubeface.finetune.step.finetune`.

    Returns:
        the figures of the step.

    Raises:
        KubefaceError: as the step; a process or a node failed, whose last words it has.
    """
    require(nodes.count >= 1, f"num_nodes is {nodes.count}: it must be at least 1")
    if nodes.count > 1:
        from kubeface.finetune.trainjob import run_trainjob

        return run_trainjob(nodes, arguments)
    count = processes(arguments["device"])
    return finetune(**arguments) if count == 1 else torchrun(count, arguments)


def processes(device: str) -> int:
    """One process for each GPU that this pod sees; one on the CPU, whose threads share the work."""
    return max(1, torch.cuda.device_count()) if choose_device(device).type == "cuda" else 1


def torchrun(count: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Fine-tunes in several processes of this machine, whose output is shown as it comes.

    Raises:
        KubefaceError: one of them failed, with its last words.
    """
    with TemporaryDirectory() as scratch:
        figures = Path(scratch, "figures.json")
        command = ["--standalone", "--nproc-per-node", str(count), "-m", "kubeface.finetune.node"]
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *command, job(arguments, str(figures))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            said = first_error(shown(process.stdout or ()))
            status = process.wait()
        finally:
            process.terminate()
        require(status == 0, said or f"fine-tuning in {count} processes ended with exit code {status}: see the log")
        return dict(json.loads(figures.read_text("utf-8")))


def job(arguments: dict[str, Any], figures: str, upload: str = "") -> str:
    """What kubeface.finetune.node is told, as JSON."""
    return json.dumps({"arguments": arguments, "figures": figures, "upload": upload}, default=str)


def shown(lines: Iterable[str]) -> Iterable[str]:
    """The lines, each printed as it passes."""
    for line in lines:
        print(line.rstrip("\n"), flush=True)
        yield line


def first_error(lines: Iterable[str]) -> str:
    """What the first line with an error says, empty for none; those that follow come from processes it left alone."""
    found = [line.strip().removeprefix(ERROR) for line in lines if line.strip().startswith(ERROR)]
    return found[0] if found else ""
