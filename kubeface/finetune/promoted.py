"""The promoted model, which finetune hands on where another training would bring nothing new."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from kubeface.finetune.result import FinetuneResult
from kubeface.models.model import CONFIG_FILE, WEIGHTS_FILE
from kubeface.models.onnx_model import START_FILE, read_model_record
from kubeface.records.champion import ChampionRecord
from kubeface.records.model import ModelRecord
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, sha256_file

CHAMPION_FILE = "champion.json"
# A promoted version is flat; these files stand in a folder of the model folder.
FOLDERS = {"history.json": "logs", "best.safetensors": "checkpoints"}
# What evaluate and promote made; they make it anew.
OF_THE_PROMOTION = ("passport.json", "model_card.md", "metrics.json", "threshold.json", CONFIG_FILE)
NOT_IN_EVERY_RECORD = ("task", "labels", "superresolver")


@dataclass(frozen=True)
class PromotedModel:
    """The version of a model that is in force: its folder (a path or s3:// address), model.json, and names of files."""

    uri: str
    record: ModelRecord
    files: tuple[str, ...]

    def trained_with(self, inputs: Mapping[str, JsonValue]) -> bool:
        """Whether it came of this very training: of everything that decides the outcome, as model.json has it."""
        entries = dict(self.record.training.entries())
        entries["guard"] = bool(entries.get("guard"))  # in model.json stands how well it works
        names = {*inputs, *NOT_IN_EVERY_RECORD} - {"identities"}  # the split has them
        return all(entries.get(name) == inputs.get(name) for name in names)

    def knows(self, people: Collection[str]) -> bool:
        """Whether it was trained on one of these people, or classes."""
        address = objects.join(self.uri, "identities.json")
        try:
            return not set(people).isdisjoint(json.loads(objects.read_bytes(address)))
        except ValueError as error:
            raise KubefaceError(f"{address} is not valid JSON ({error}): roll back to another version") from None


def find_promoted(champion: str) -> PromotedModel | None:
    """The promoted model; None where there is none yet, or its files do not suffice to evaluate it again.

    Args:
        champion: folder of the model's versions, with champion.json in it; a path or s3:// address, empty for none.

    Raises:
        KubefaceError: champion.json, or model.json of the version, cannot be read.
    """
    address = objects.join(champion, CHAMPION_FILE)
    if not champion or not objects.exists(address):
        return None
    try:
        version = ChampionRecord.parse(json.loads(objects.read_bytes(address)), address).version
    except ValueError as error:
        raise KubefaceError(f"{address} is not valid JSON ({error}): restore it or remove it to begin anew") from None
    if not version:
        return None
    uri = objects.join(champion, version)
    files = tuple(sorted(file.name for file in objects.list_files(uri)))
    if START_FILE not in files:
        print(f"finetune: {uri} has no {START_FILE} to be evaluated against: a new model is trained", flush=True)
        return None
    return PromotedModel(uri, read_model_record(uri), files)


def hand_on(promoted: PromotedModel, out: Path, reason: str) -> FinetuneResult:
    """Copies the promoted model to `out`, where model.json says that it was not trained by this run, and why.

    Raises:
        KubefaceError: the weights are not the ones that model.json describes.
    """
    with new_folder(out) as folder:
        for name in promoted.files:
            if name not in OF_THE_PROMOTION:
                target = folder / FOLDERS.get(name, "") / name
                target.parent.mkdir(exist_ok=True)
                objects.download(objects.join(promoted.uri, name), target)
        weights = folder / WEIGHTS_FILE
        require(
            weights.is_file() and sha256_file(weights) == promoted.record.weights_sha256,
            f"{objects.join(promoted.uri, WEIGHTS_FILE)} is missing or is not the file that {CONFIG_FILE} describes: "
            "roll back to another version",
        )
        record = promoted.record.model_copy(update={"trained": False, "reason": reason})
        record.write(folder / CONFIG_FILE)
    print(f"finetune: hands on {promoted.uri} instead of training: {reason}", flush=True)
    training = promoted.record.training
    images = training.images or 0
    return FinetuneResult(
        rows_in=images,
        rows_out=images,
        trained=0,
        identities=training.identities or 0,
        labels=len(training.labels),
        epochs=0,
        best_epoch=training.best_epoch or 0,
        val_loss=training.val_loss,
        val_accuracy=training.val_accuracy,
        val_auc=training.val_auc,
    )
