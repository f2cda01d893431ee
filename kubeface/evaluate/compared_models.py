"""The models that an evaluation compares: the starting model, the fine-tuned one, the promoted one, and of classes one
trained from scratch."""

import json
from collections.abc import Mapping
from pathlib import Path

from kubeface.models.onnx_model import OnnxModel, open_model, open_start, read_model_record
from kubeface.records.evaluation import ComparedModel
from kubeface.records.model import ModelRecord
from kubeface.records.tasks import RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.tables.table import Table

FIRST_TEMPLATE = "arcface_112"  # what tables were aligned to before their manifest said it


def load_models(
    model: Path, champion: str, table: Table, device: str, task: str = RECOGNITION, scratch: Path | None = None
) -> dict[str, OnnxModel]:
    """The models by name: baseline, finetuned, where given scratch and champion; fit for the table's crops.

    Each is the ONNX file of a model folder: what is measured is what is served.

    Raises:
        KubefaceError: a model cannot be read, has changed, is for another task or other labels, or wants crops made
            otherwise.
    """
    folders = [str(model), *([str(scratch)] if scratch else []), *([champion] if champion else [])]
    for folder in folders:
        found = read_model_record(folder).task
        require(found == task, f"{folder} is a model of {found}, this evaluation is of {task}: give one of {task}")
    finetuned = open_model(str(model), device)
    require(
        table.manifest.settings.get("template", FIRST_TEMPLATE) == finetuned.template,
        f"{table.folder} was aligned to another template than {finetuned.template}, which {model} was trained on: "
        "align with it",
    )
    models = {"baseline": open_start(str(model), device), "finetuned": finetuned}
    if scratch:
        models["scratch"] = open_model(str(scratch), device)
    if champion:
        models["champion"] = open_model(champion, device)
        require(
            models["champion"].template == finetuned.template,
            f"{champion} was trained on crops of template {models['champion'].template}, {model} on "
            f"{finetuned.template}: they cannot be compared on one table; promote the new model under another name",
        )
    for which, other in models.items():
        require(
            set(other.labels) == set(finetuned.labels),
            f"the {which} model knows other labels than {model}: "
            f"{', '.join(sorted(set(other.labels) ^ set(finetuned.labels))[:3])}; promote the new model under another "
            "name",
        )
    return models


def describe_models(
    model: Path, models: Mapping[str, OnnxModel], champion: str, heldout: Mapping[str, str] | None
) -> dict[str, ComparedModel]:
    """The compared models for the record, by name.

    Args:
        model, champion: folders of finetune and of the promoted model, empty for none.
        heldout: identity by image id, to count those whom the promoted model knows; None where nothing says which
            images it was trained on.
    """
    described = {
        which: ComparedModel(backbone=entry.backbone, weights_sha256=entry.weights_sha256, onnx_sha256=entry.sha256)
        for which, entry in models.items()
    }
    config = ModelRecord.read(model / "model.json")
    start = {"start": config.start, "weights_sha256": config.training.start_sha256}
    described["baseline"] = described["baseline"].model_copy(update=start)
    if champion:
        known = None
        if heldout is not None:
            # People who are held out now and were not then speak for the promoted model, never against it.
            known = len(_identities(champion) & set(heldout.values()))
        update = {"uri": champion, "heldout_people_trained_on": known}
        described["champion"] = described["champion"].model_copy(update=update)
    return described


def _identities(folder: str) -> set[str]:
    """People that a promoted model was trained on."""
    uri = objects.join(folder, "identities.json")
    try:
        return set(json.loads(objects.read_bytes(uri)))
    except ValueError as error:
        raise KubefaceError(f"{uri} is not valid JSON ({error}): promote the model again") from None
