"""A training of a pipeline: in its own pod, or on several nodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.finetune.nodes import Nodes
from components.finetune.trainjob import run_trainjob
from kubeface.finetune.launch import Job, launch
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.promoted import find_promoted, hand_on
from kubeface.finetune.result import FinetuneResult
from kubeface.finetune.step import NO_DRIFT, Decision
from kubeface.runtime.errors import require
from kubeface.storage import objects

MODEL = "/tmp/model"  # noqa: S108 - in the node's own volume


class Artifact(Protocol):
    """What is used of KFP's artifacts: this module runs where kfp is and is tested where it need not be."""

    uri: str
    path: str


@dataclass(frozen=True)
class Training:
    """A training as the pipeline asks for it: the arguments of `kubeface.finetune.step.finetune`."""

    aligned: Artifact
    divided: Artifact
    model: Artifact
    options: FinetuneOptions
    champion: str
    decision: str


def train(training: Training, nodes: Nodes) -> FinetuneResult:
    """Fine-tunes in this pod, or on several nodes.

    Args:
        training: what to train.
        nodes: where.

    Raises:
        KubefaceError: as `finetune`; with several nodes, also data that not all of them reach, and as `run_trainjob`.
    """
    decision, out = training.decision, Path(training.model.path)
    require(decision in ("train", "keep"), f"decision is '{decision}': it is train or keep")
    if nodes.num_nodes == 1:
        aligned, split = Path(training.aligned.path), Path(training.divided.path)
        checked: Decision = "keep" if decision == "keep" else "train"
        return launch(aligned, split, out, training.options, training.champion, checked)
    promoted = find_promoted(training.champion) if decision == "keep" else None
    return hand_on(promoted, out, NO_DRIFT) if promoted else _train_on_nodes(training, nodes, out)


def _train_on_nodes(training: Training, nodes: Nodes, out: Path) -> FinetuneResult:
    """Fine-tunes on several nodes; the model comes back through the store."""
    addresses = {"data": training.aligned.uri, "split": training.divided.uri, "model": training.model.uri}
    for name, uri in addresses.items():
        require(objects.is_s3(uri), f"num_nodes is {nodes.num_nodes} and the {name} lies at '{uri}': it must be s3://")
    job = Job(
        aligned=addresses["data"],
        split=addresses["split"],
        out=Path(MODEL),
        options=training.options,
        champion=training.champion,
        result=f"{addresses['model']}.result.json",
        upload=addresses["model"],
    )
    run_trainjob(nodes, job.text())
    objects.download_folder(addresses["model"], out, "finetune")
    return FinetuneResult.model_validate_json(objects.read_bytes(job.result))
