"""A training of a pipeline: in its own pod, or on several nodes."""

from pathlib import Path

from components.execution import Artifact
from components.finetune.nodes import Nodes
from components.finetune.trainjob import run_trainjob
from kubeface.finetune.launch import Job, launch
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.promoted import find_promoted, hand_on
from kubeface.finetune.result import FinetuneResult
from kubeface.finetune.step import NO_DRIFT
from kubeface.records.data import gathered_tables
from kubeface.runtime.errors import require
from kubeface.runtime.options import read_options
from kubeface.storage import objects

MODEL = Path("/tmp/model")  # noqa: S108 - in the node's own volume


def train(
    gathered: Artifact,
    divided: Artifact,
    model: Artifact,
    options: FinetuneOptions,
    champion: str,
    decision: str,
    nodes: Nodes,
) -> FinetuneResult:
    """Fine-tunes in this pod, or on several nodes, from which the model comes back through the store.

    Raises:
        KubefaceError: as `finetune`; with several nodes, also data that not all of them reach, and as `run_trainjob`.
    """
    aligned, _ = gathered_tables(Path(gathered.path))
    what = {"options": options, "champion": champion, "decision": decision}
    job = read_options(Job, what | {"aligned": str(aligned), "split": divided.path, "out": Path(model.path)})
    if nodes.num_nodes == 1:
        return launch(job)
    promoted = find_promoted(champion) if job.decision == "keep" else None
    if promoted:
        return hand_on(promoted, job.out, NO_DRIFT)
    for name, uri in {"data": gathered.uri, "split": divided.uri, "model": model.uri}.items():
        require(objects.is_s3(uri), f"num_nodes is {nodes.num_nodes} and the {name} lies at '{uri}': it must be s3://")
    result = f"{model.uri}.result.json"
    there = {
        "aligned": objects.join(gathered.uri, aligned.name),
        "split": divided.uri,
        "out": MODEL,
        "result": result,
        "upload": model.uri,
    }
    run_trainjob(nodes, job.model_copy(update=there | {"decision": "train"}).text())
    objects.download_folder(model.uri, job.out, "finetune")
    return FinetuneResult.model_validate_json(objects.read_bytes(result))
