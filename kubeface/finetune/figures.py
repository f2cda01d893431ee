"""Training curves, and what the augmentations do to faces, as PNG files; the same input gives the same bytes."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kubeface.faces.images import RGB
from kubeface.finetune import augment
from kubeface.finetune.augment import MOST_BLENDED, Augmentation, blend
from kubeface.finetune.data import FaceCrops
from kubeface.finetune.state import EpochFigures
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION, Task
from kubeface.runtime.keyed_rng import keyed_rng

# file → (label of the axis, the history's columns with their names in the legend)
CURVES = {
    "loss": ("loss", {"train_loss": "training", "val_loss": "validation"}),
    "accuracy": ("accuracy", {"train_accuracy": "training", "val_accuracy": "validation"}),
    "verification": ("verification AUC", {"val_auc": "validation people"}),
    "learning_rate": ("learning rate", {"head_learning_rate": "head", "learning_rate": "backbone"}),
}
STYLES = (("o-", "#5b8def"), ("s-", "#e0703c"))
FACES = 10
GAP = 6  # pixels between two crops
MOST_BARS = 60  # as many labels as one can read in a figure


def draw_history(history: Sequence[EpochFigures], folder: Path, task: Task = RECOGNITION) -> None:
    """Writes loss, accuracy, verification and learning_rate.png: curves by epoch, with a line where a stage begins.

    For attributes auc.png, the mean over the labels, takes the place of verification.png. None, or a rate of 0 (what is
    frozen), leaves a gap, and a figure without any value is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = CURVES
    if task == ATTRIBUTES:
        auc = {"auc": ("mean AUC of the labels", {"val_auc": "validation"})}
        figures = {name: curve for name, curve in CURVES.items() if name != "verification"} | auc
    epochs = [row.epoch for row in history]
    for name, (label, columns) in figures.items():
        curves = {legend: [getattr(row, column) for row in history] for column, legend in columns.items()}
        if name == "learning_rate":
            curves = {legend: [value or None for value in values] for legend, values in curves.items()}
        if all(value is None for values in curves.values() for value in values):
            continue
        figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        for (style, colour), (legend, values) in zip(STYLES, curves.items(), strict=False):
            if any(value is not None for value in values):
                numbers = [np.nan if value is None else value for value in values]
                axes.plot(epochs, numbers, style, markersize=4, label=legend, color=colour)
        for before, row in pairwise(history):
            if row.stage != before.stage:
                begins = f"stage {row.stage} begins"
                axes.axvline(row.epoch - 0.5, color="#888888", linestyle="--", linewidth=1, label=begins)
        if name == "learning_rate":
            axes.set_yscale("log")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / f"{name}.png", metadata={"Software": ""})


def draw_distribution(before: dict[str, int], after: dict[str, int], path: Path) -> None:
    """Draws how many images of each label are in the data, and how many an epoch of the sampler draws, as PNG.

    The labels are ordered by how many there are; of more than MOST_BARS the rarest and the commonest are shown.
    """
    names = sorted(before, key=lambda name: (-before[name], name))
    title = ""
    if len(names) > MOST_BARS:
        title = f"the commonest and the rarest of {len(names)} labels"
        names = names[: MOST_BARS // 2] + names[-MOST_BARS // 2 :]
    figure = Figure(figsize=(6, 1.2 + 0.24 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for shift, (legend, counts), (_, colour) in zip(
        (-0.2, 0.2), (("in the data", before), ("drawn in an epoch", after)), STYLES, strict=True
    ):
        axes.barh(places + shift, [counts[name] for name in names], 0.38, label=legend, color=colour)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="images", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": ""})


def draw_augmentations(crops: FaceCrops, path: Path) -> None:
    """Draws what the augmentations do to ten faces, a column each, of as many people as there are.

    The first row is the crop as it is stored. Then comes a row for each augmentation that is switched on and for the
    degradation, each alone and on every face; and at last what the model sees in the first and the second epoch.
    """
    augmentation = crops.augmentation or Augmentation(flip=0.0)
    found = crops.row_index
    _, first = np.unique(found.labels, return_index=True)
    chosen = [*np.sort(first), *np.setdiff1d(np.arange(min(len(found), 2 * FACES)), first)][:FACES]
    faces = [(found[int(index)].image_id, crops.image(found[int(index)])) for index in chosen]
    rows: dict[str, list[RGB]] = {"as stored": [image for _, image in faces]}
    for kind, alone in augmentation.alone().items():
        made = []
        for image_id, image in faces:
            random = keyed_rng(crops.seed, "figure", kind, image_id)
            made.append(alone.student(alone.both(image, random), random))
        rows[_label(kind, augmentation)] = made
    if augmentation.mix > 0:
        others = [image for _, image in faces[1:] + faces[:1]]
        rows["mix"] = [
            blend(f, o, keyed_rng(crops.seed, "figure", "mix", i).uniform(0, MOST_BLENDED))
            for (i, f), o in zip(faces, others, strict=True)
        ]
    if crops.degradation:
        rows[str(crops.degradation)] = [crops.degradation(image, crops.seed, "figure", i) for i, image in faces]
    for epoch in (1, 2):
        seen = [crops[int(index), epoch][-2] for index in chosen]
        rows[f"trained on, epoch {epoch}"] = [crop.permute(1, 2, 0).numpy() for crop in seen]
    _mosaic(rows, path)


def _label(kind: str, augmentation: Augmentation) -> str:
    """What an augmentation is called, with the range of its strength."""
    if kind == "jitter":
        return f"colour jitter ± {augmentation.jitter:g}"
    strengths = {
        "crop": ("area {:g}–{:g}", augment.CROP_AREA),
        "blur": ("σ {:g}–{:g} px", augment.BLUR_SIGMA),
        "jpeg": ("quality {:g}–{:g}", augment.JPEG_QUALITY),
        "low_resolution": ("{:g}–{:g} px", augment.LOW_RESOLUTION_SIDE),
        "cutout": ("area {:g}–{:g}", augment.CUTOUT_AREA),
    }
    name = {"jpeg": "JPEG", "cutout": "cut-out"}.get(kind, kind.replace("_", " "))
    template, strength = strengths.get(kind, ("", ()))
    return f"{name}, {template.format(*strength)}" if template else name


def _mosaic(rows: dict[str, list[RGB]], path: Path) -> None:
    """Rows of images of one size with their labels on the left, at a pixel of the file for each of theirs."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    count = len(next(iter(rows.values())))
    picture = np.full((len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, 3), 255, np.uint8)
    for number, images in enumerate(rows.values()):
        for place, image in enumerate(images):
            top, left = number * (height + GAP), place * (width + GAP)
            picture[top : top + height, left : left + width] = image
    dpi, margin, label = 100, 12, 190
    size = picture.shape[1] + label + 2 * margin, picture.shape[0] + 2 * margin
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    figure.figimage(picture, xo=label + margin, yo=margin)
    for number, name in enumerate(rows):
        middle = margin + number * (height + GAP) + height / 2
        figure.text((label - 2) / size[0], 1 - middle / size[1], name, ha="right", va="center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": ""})
