"""The folder that a training leaves: weights, ONNX, model.json, logs and figures."""

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kubeface import __version__
from kubeface.faces.degradation import Degradation
from kubeface.faces.mtcnn_networks import write_mtcnn
from kubeface.faces.mtcnn_onnx import MTCNN_FILE
from kubeface.finetune.checkpoints import Checkpoints, Inputs
from kubeface.finetune.data import FaceCrops
from kubeface.finetune.export import export_models
from kubeface.finetune.figures import draw_augmentations, draw_distribution, draw_history
from kubeface.finetune.final_model import Assembly
from kubeface.finetune.logs import write_history
from kubeface.finetune.objectives import Scores
from kubeface.finetune.trainer import Trainer
from kubeface.finetune.training_data import TrainingSetup
from kubeface.models.model import FaceModel, save_model
from kubeface.records.model import OnnxRecord, TrainingRecord
from kubeface.records.tasks import ATTRIBUTES
from kubeface.storage.folders import sha256_file, write_json

FACES_CHECKED = 64  # that the ONNX export is compared on


def write_model_folder(
    folder: Path, trainer: Trainer, store: Checkpoints, assembly: Assembly, start: FaceModel | None,
    heads: tuple[Scores, Scores] | None,
) -> None:  # fmt: skip
    """Writes the model folder, which exists, with a copy of the checkpoints.

    Args:
        start: the starting model; None where nothing is exported.
        heads: what makes scores, of the final and of the starting model; None for recognition.

    Raises:
        KubefaceError: an exported network differs from torch's.
    """
    setup, history = trainer.setup, trainer.state.history
    data = setup.data
    onnx = _export(folder, setup, start, heads) if start else None
    record = _training_record(trainer, store.inputs, assembly, onnx)
    enlarging = setup.enlarger.write(folder) if setup.enlarger else None
    save_model(setup.model, folder, record, data.task, heads[0].state_dict() if heads else None, enlarging)
    write_json(folder / "identities.json", data.identities)
    write_history(folder / "logs", history)
    (folder / "checkpoints").mkdir()
    (folder / "figures").mkdir()
    draw_history(history, folder / "figures", data.task)
    if data.labels:
        write_json(folder / "labels.json", list(data.labels))
        _write_sampling(folder, trainer)
    crops = FaceCrops(data.train, setup.degradation, setup.options.seed, setup.augmentation)
    draw_augmentations(crops, folder / "figures" / "augmentation.png")
    for path in sorted(store.folder.glob("*.safetensors")):
        shutil.copyfile(path, folder / "checkpoints" / path.name)  # they stay until the folder is whole


def _training_record(trainer: Trainer, inputs: Inputs, assembly: Assembly, onnx: OnnxRecord | None) -> TrainingRecord:
    """What model.json says of a training."""
    setup, best = trainer.setup, trainer.state.best
    values: dict[str, object] = {
        **inputs,
        "producer": f"finetune {__version__}",
        "pretrained": setup.options.pretrained,
        "recipe": setup.options.recipe,
        "identities": len(setup.data.identities),
        "images": len(setup.data.train),
        "best_epoch": best.epoch,
        "val_loss": best.val_loss,
        "val_accuracy": best.val_accuracy,
        "val_auc": best.val_auc,
        "wise_ft_alpha": assembly.alpha,
        "image": os.environ.get("KUBEFACE_IMAGE"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),  # importing it takes seconds
            "numpy": np.__version__,
        },
    }
    optional = {"fallback": setup.fallback, "wise_ft_scores": assembly.scores, "guard": assembly.gate, "onnx": onnx}
    return TrainingRecord.model_validate(values | {name: value for name, value in optional.items() if value})


def _export(folder: Path, setup: TrainingSetup, start: FaceModel, heads: tuple[Scores, Scores] | None) -> OnnxRecord:
    """Writes model.onnx and start.onnx, and checks them on the first validation crops, or else training crops."""
    index = setup.data.val if len(setup.data.val) else setup.data.train
    crops = FaceCrops(index, Degradation(), 0)
    faces = np.stack([crops.image(index[number]) for number in range(min(FACES_CHECKED, len(index)))])
    onnx = export_models(setup.model, start, folder, faces, heads)
    if setup.model.detector == "mtcnn":  # for users of the ONNX export, who need not have what it is made from
        write_mtcnn(folder / MTCNN_FILE)
        return onnx.model_copy(update={"mtcnn_sha256": sha256_file(folder / MTCNN_FILE)})
    return onnx


def _write_sampling(folder: Path, trainer: Trainer) -> None:
    """Images of each label or class among the training images, and among those that the first epoch draws."""
    data, drawn = trainer.setup.data, trainer.drawn()

    def count(labels: NDArray[np.int32]) -> dict[str, int]:
        if data.task == ATTRIBUTES:
            counts: Sequence[int] = (data.targets[labels] == 1).sum(0).tolist()
        else:
            counts = np.bincount(labels, minlength=len(data.labels)).tolist()
        return dict(zip(data.labels, counts, strict=True))

    labels = data.train.labels
    before, after = count(labels), count(labels[drawn])
    sampling = {"images": len(labels), "drawn": len(drawn), "before": before, "after": after}
    write_json(folder / "sampling.json", sampling)
    draw_distribution(before, after, folder / "figures" / "label_distribution.png")
