"""What a training consists of: options, model, images and what they are of, and the processes that share it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kubeface.faces.degradation import Degradation
from kubeface.finetune.augment import Augmentation
from kubeface.finetune.distributed import Group
from kubeface.finetune.options import FinetuneOptions
from kubeface.models.model import FaceModel
from kubeface.models.superresolution import Enlarger
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, Task
from kubeface.runtime.errors import require
from kubeface.tables.labels import UNKNOWN, choose_labels, read_labels
from kubeface.tables.row_index import RowIndex, row_index
from kubeface.tables.table import Table


@dataclass(frozen=True)
class TrainingData:
    """Training and validation images with what they are of.

    An image's label is a number: of the class among `identities`, where people of `val` who are not trained on have
    numbers from len(identities) up; for attributes of the row of `targets` with the image's labels.

    Args:
        identities: people or classes trained on, sorted.
        labels: names of the scores, in their order: attributes or classes; empty for recognition.
        targets: R×L for attributes: 1, 0, −1 where not known; at least one of a row is known.
    """

    identities: list[str]
    train: RowIndex
    val: RowIndex
    task: Task = RECOGNITION
    labels: tuple[str, ...] = ()
    targets: NDArray[np.int8] = field(default_factory=lambda: np.empty((0, 0), np.int8))


@dataclass(frozen=True)
class TrainingSetup:
    """What a training consists of.

    Args:
        model: the model to start from; its network is trained in place.
        degradation: put on training and validation crops.
        workers: DataLoader processes, 0 for none.
        enlarger: the super-resolution network of the degradation; None for bicubic.
        fallback: what the model is instead of the one asked for, and why; empty where it is that.
    """

    options: FinetuneOptions
    model: FaceModel
    data: TrainingData
    degradation: Degradation
    group: Group
    workers: int
    enlarger: Enlarger | None = None
    fallback: str = ""

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation that the options ask for."""
        names = ("flip", "crop", "warp", "jitter", "mix", "greyscale", "blur", "jpeg", "low_resolution", "cutout")
        return Augmentation(**{name: getattr(self.options, name) for name in names})

    def announce(self, line: str) -> None:
        """Prints a line, in one process alone."""
        if self.group.main:
            print(line, flush=True)


def read_classified(table: Table, divided: Table, task: Task) -> TrainingData:
    """Images with the person or class of each, for recognition and classes.

    Raises:
        KubefaceError: fewer than two people or classes, or a split of another table.
    """
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    identities = sorted({row["identity"] for row in rows if row["split"] == "train"})
    what = "classes" if task == CLASSES else "people"
    require(len(identities) >= 2, f"{divided.folder} has {len(identities)} {what} to train on, at least 2 are needed")
    others = sorted({row["identity"] for row in rows if row["split"] == "val"} - set(identities))
    number = {name: index for index, name in enumerate([*identities, *others])}
    train, val = (
        _indexed(table, divided, {row["image_id"]: number[row["identity"]] for row in rows if row["split"] == part})
        for part in ("train", "val")
    )
    return TrainingData(identities, train, val, task, tuple(identities) if task == CLASSES else ())


def read_attributes(table: Table, divided: Table, labels: str, announce: bool) -> TrainingData:
    """Images of which at least one label is known.

    Args:
        table: aligned table, with the labels in its groups.
        labels: names of those to learn; empty for all.

    Raises:
        KubefaceError: unknown labels, no labelled image to train on, or a split of another table.
    """
    names = choose_labels(table, labels)
    ids, targets = read_labels(table, names)
    labelled = dict(zip(ids, (targets != UNKNOWN).any(axis=1).tolist(), strict=True))
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    images: dict[str, RowIndex] = {}
    left_out = 0
    for part in ("train", "val"):
        chosen = [row["image_id"] for row in rows if row["split"] == part]
        left_out += sum(not labelled.get(image_id, True) for image_id in chosen)
        # An image that the table does not hold stays in, so that it is missed.
        wanted = {image_id: row_of.get(image_id, 0) for image_id in chosen if labelled.get(image_id, True)}
        images[part] = _indexed(table, divided, wanted)
    train = images["train"]
    require(len(train) > 0, f"{divided.folder} has no image to train on of which a label is known: label some")
    numbers = set(train.labels.tolist())
    identities = sorted({row["identity"] for row in rows if row_of.get(row["image_id"]) in numbers})
    if announce:
        print(
            f"finetune: {len(names)} labels of {len(train)} images to train on and {len(images['val'])} to validate "
            f"on; {left_out} without a known label left out",
            flush=True,
        )
    return TrainingData(identities, train, images["val"], ATTRIBUTES, tuple(names), targets)


def _indexed(table: Table, divided: Table, labels: dict[str, int]) -> RowIndex:
    """Where the images that a split names stand, with their labels."""
    index = row_index(table, labels)
    require(
        len(index) == len(labels),
        f"{divided.folder} names images that {table.folder} does not hold: run split on this table",
    )
    return index
