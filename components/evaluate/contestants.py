"""What an evaluation compares: the starting model, the fine-tuned one, and the promoted one where there is one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.faces import storage
from components.faces.errors import KubefaceError, require
from components.faces.folders import read_json
from components.faces.model import TEMPLATE, FaceModel, digest, load_model, load_pretrained
from components.faces.table import Table


def load_models(model: Path, champion: str, table: Table, device: torch.device) -> dict[str, FaceModel]:
    """baseline, finetuned, and where one is promoted champion, all of them fit for the table's crops.

    Args:
        model: folder of finetune.
        champion: folder of the promoted model, path or s3://; empty for none.
        table: aligned table.

    Raises:
        KubefaceError: a model cannot be had, is not the one that it was, or wants crops made otherwise.
    """
    training = read_json(model / "model.json")["training"]
    models = {
        "baseline": load_pretrained(training["backbone"], training["pretrained"], device),
        "finetuned": load_model(model, device),
    }
    template = models["finetuned"].template
    require(
        table.manifest["settings"].get("template", TEMPLATE) == template,
        f"{table.folder} was aligned to another template than {template}, which {model} was trained on: align with it",
    )
    require(
        digest(models["baseline"].network) == training["start_sha256"],
        f"the starting weights of {model} ({training['pretrained'] or training['backbone']}) are no longer the ones it "
        "was trained from: there is nothing fair to compare with",
    )
    require(
        models["baseline"].preprocessing == models["finetuned"].preprocessing,
        f"{model / 'model.json'} says another preprocessing than the starting model has, with which it was trained",
    )
    if champion:
        models["champion"] = load_pretrained(_remote_json(champion, "model.json")["backbone"], champion, device)
        require(
            models["champion"].template == template,
            f"{champion} was trained on crops of template {models['champion'].template}, {model} on {template}: they "
            "cannot be compared on one table; promote the new model under another name",
        )
    return models


def told_of(model: Path, models: Mapping[str, FaceModel], champion: str, heldout: Mapping[str, str]) -> dict[str, Any]:
    """What is compared, by model."""
    config = read_json(model / "model.json")
    told: dict[str, Any] = {
        "baseline": {"backbone": models["baseline"].backbone, "start": config["start"],
                     "weights_sha256": config["training"]["start_sha256"]},
        "finetuned": {"backbone": config["backbone"], "weights_sha256": config["weights_sha256"]},
    }  # fmt: skip
    if champion:
        its = _remote_json(champion, "model.json")
        known = set(_remote_json(champion, "identities.json"))
        told["champion"] = {
            "backbone": its["backbone"], "weights_sha256": its["weights_sha256"], "uri": champion,
            # People who are held out now and were not then speak for the promoted model, never against it.
            "heldout_people_trained_on": len(known & set(heldout.values())),
        }  # fmt: skip
    return told


def _remote_json(folder: str, name: str) -> Any:
    uri = storage.join(folder, name)
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise KubefaceError(f"{uri} is not valid JSON ({error}): promote the model again") from None
