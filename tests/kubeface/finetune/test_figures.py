"""Figures: which files there are, what they show, and that the same input gives the same bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.finetune import figures as figures_module
from kubeface.finetune.augment import KINDS, Augmentation
from kubeface.finetune.data import FaceCrops
from kubeface.finetune.figures import FACES, MOST_BARS, draw_augmentations, draw_distribution, draw_history
from kubeface.finetune.state import EpochFigures
from kubeface.records.tasks import Task
from kubeface.tables.row_index import row_index
from kubeface.tables.table import Table

MARGIN, LABEL, STEP = 12, 190, 112 + 6


def history(epochs: int = 5, **changes: Any) -> list[EpochFigures]:
    rows = [
        EpochFigures(
            n, 1 if n <= 2 else 2, train_loss=9.0 / n, train_accuracy=0.0, val_loss=10.0 / n, val_accuracy=0.1 * n,
            val_auc=0.9 + 0.01 * n, learning_rate=0.0 if n <= 2 else 1e-4 / n, head_learning_rate=1e-3,
            images_per_second=1.0, seconds=1.0,
        )
        for n in range(1, epochs + 1)
    ]  # fmt: skip
    return [replace(row, **changes) for row in rows]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What is plotted, by its name in the legend and the axis's label."""
    lines: dict[str, list[float]] = {}
    plot, line, label = Axes.plot, Axes.axvline, Axes.set

    def remember(axes: Axes, x: Any, y: Any, *args: Any, **options: Any) -> Any:
        lines[options["label"]] = list(y)
        return plot(axes, x, y, *args, **options)

    def remember_line(axes: Axes, x: float, *args: Any, **options: Any) -> Any:
        lines[options["label"]] = [x]
        return line(axes, x, *args, **options)

    def remember_label(axes: Axes, **options: Any) -> Any:
        for name in [name for name in lines if ": " not in name]:
            lines[f"{options['ylabel']}: {name}"] = lines.pop(name)
        return label(axes, **options)

    monkeypatch.setattr(Axes, "plot", remember)
    monkeypatch.setattr(Axes, "axvline", remember_line)
    monkeypatch.setattr(Axes, "set", remember_label)
    return lines


# --- history --------------------------------------------------------------------------------------------------------


def test_the_curves_are_those_of_the_history(drawn: dict[str, list[float]], tmp_path: Path) -> None:
    draw_history(history(), tmp_path / "figures")
    expected = {
        "loss: training": [9.0, 4.5, 3.0, 2.25, 1.8],
        "loss: validation": [10.0, 5.0, 10 / 3, 2.5, 2.0],
        "accuracy: training": [0.0] * 5,
        "accuracy: validation": [0.1, 0.2, 0.3, 0.4, 0.5],
        "verification AUC: validation people": [0.91, 0.92, 0.93, 0.94, 0.95],
        "learning rate: head": [1e-3] * 5,
        "learning rate: backbone": [np.nan, np.nan, 1e-4 / 3, 1e-4 / 4, 1e-4 / 5],
    }
    begins = {f"{name}: stage 2 begins": [2.5] for name in {key.partition(":")[0] for key in expected}}
    assert drawn.keys() == expected.keys() | begins.keys()
    for name, values in (expected | begins).items():
        np.testing.assert_allclose(drawn[name], values)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "loss.png", "accuracy.png", "verification.png", "learning_rate.png",
    }  # fmt: skip
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as image:
            assert image.size == (720, 432)


def test_what_was_not_measured_is_not_drawn(drawn: dict[str, list[float]], tmp_path: Path) -> None:
    """Without validation images there is no curve of them and no verification; in one epoch nothing is missing."""
    rows = history(1, val_loss=None, val_accuracy=None, val_auc=None, head_learning_rate=0.0, learning_rate=1e-4)
    draw_history(rows, tmp_path)
    assert drawn.keys() == {"loss: training", "accuracy: training", "learning rate: backbone"}
    assert not (tmp_path / "verification.png").exists()


@pytest.mark.parametrize(
    ("task", "changes", "axis", "files"),
    [("attributes", {}, "mean AUC of the labels: validation", {"auc.png"}), ("classes", {"val_auc": None}, "", set())],
)
def test_auc_of_other_tasks(
    task: Task, changes: dict[str, Any], axis: str, files: set[str], drawn: dict[str, list[float]], tmp_path: Path
) -> None:
    """That of attributes is not of verification, and classes have none; an epoch without one leaves a gap."""
    rows = history(**changes)
    rows[1] = replace(rows[1], val_auc=None)
    draw_history(rows, tmp_path, task)
    if axis:
        np.testing.assert_allclose(drawn[axis], [0.91, np.nan, 0.93, 0.94, 0.95])
    assert drawn["loss: stage 2 begins"] == [2.5]
    assert not any(name.startswith("verification") for name in drawn)
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "accuracy.png", "learning_rate.png"} | files


@pytest.mark.slow
def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two", "two"):  # over what is there already, too
        draw_history(history(2), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        with Image.open(path) as image:
            assert "Software" not in image.info or not image.info["Software"]


# --- distribution ---------------------------------------------------------------------------------------------------


def bars(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, list[int]], list[str]]:
    """The lengths of the bars by their name in the legend, and the labels beside them."""
    lengths: dict[str, list[int]] = {}
    labels: list[str] = []
    barh, ticks = Axes.barh, Axes.set_yticks

    def remember(axes: Axes, y: Any, width: Any, *args: Any, **options: Any) -> Any:
        lengths[options["label"]] = list(width)
        return barh(axes, y, width, *args, **options)

    def remember_labels(axes: Axes, places: Any, names: Any, **options: Any) -> Any:
        labels.extend(names)
        return ticks(axes, places, names, **options)

    monkeypatch.setattr(Axes, "barh", remember)
    monkeypatch.setattr(Axes, "set_yticks", remember_labels)
    return lengths, labels


def test_the_distribution_is_drawn_from_the_commonest_label_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lengths, labels = bars(monkeypatch)
    path = tmp_path / "figures" / "label_distribution.png"
    draw_distribution({"Bald": 2, "$Smiling": 9, "Male": 5}, {"Bald": 4, "$Smiling": 10, "Male": 6}, path)
    assert lengths == {"in the data": [9, 5, 2], "drawn in an epoch": [10, 6, 4]}
    assert labels == ["$Smiling", "Male", "Bald"]
    before = path.read_bytes()
    draw_distribution({"Male": 5, "Bald": 2, "$Smiling": 9}, {"Bald": 4, "$Smiling": 10, "Male": 6}, path)
    assert path.read_bytes() == before


def test_of_many_labels_both_ends_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lengths, labels = bars(monkeypatch)
    counts = {f"{number:03}": number for number in range(200)}
    draw_distribution(counts, counts, tmp_path / "many.png")
    half = MOST_BARS // 2
    assert labels == [f"{number:03}" for number in [*range(199, 199 - half, -1), *range(half - 1, -1, -1)]]
    assert all(len(values) == MOST_BARS for values in lengths.values())


# --- augmentations --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops(aligned_table: Path) -> FaceCrops:
    table = Table(aligned_table, "aligned")
    rows = table.columns(["image_id", "identity"]).to_pylist()
    people = sorted({row["identity"] for row in rows})
    found = row_index(table, {row["image_id"]: people.index(row["identity"]) for row in rows})
    every: dict[str, Any] = dict.fromkeys((*KINDS, "mix"), 0.5)
    return FaceCrops(found, Degradation.parse("noise:60"), 0, Augmentation(**every))


def cells(path: Path, rows: int) -> list[list[RGB]]:
    """The images of a figure, row by row."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    assert picture.shape == (2 * MARGIN + rows * STEP - 6, 2 * MARGIN + LABEL + FACES * STEP - 6, 3)
    lefts = range(MARGIN + LABEL, picture.shape[1] - MARGIN, STEP)
    tops = range(MARGIN, picture.shape[0] - MARGIN, STEP)
    return [[picture[top : top + 112, left : left + 112] for left in lefts] for top in tops]


@pytest.mark.slow
def test_every_augmentation_has_a_row(crops: FaceCrops, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: list[str] = []
    mosaic = figures_module._mosaic

    def named(rows: dict[str, list[RGB]], path: Path) -> None:
        names.extend(rows)
        mosaic(rows, path)

    monkeypatch.setattr(figures_module, "_mosaic", named)
    draw_augmentations(crops, tmp_path / "new" / "augmentations.png")
    assert names == [
        "as stored", "flip", "crop, area 0.8–1", "warp", "colour jitter ± 0.5", "cut-out, area 0.02–0.33",
        "blur, σ 0.1–2 px", "low resolution, 8–56 px", "greyscale", "JPEG, quality 10–75", "mix", "noise:60",
        "trained on, epoch 1", "trained on, epoch 2",
    ]  # fmt: skip
    drawn = cells(tmp_path / "new" / "augmentations.png", len(names))
    stored = {crops.image(place).tobytes(): index for index, place in enumerate(crops.row_index)}
    faces = [stored[image.tobytes()] for image in drawn[0]]  # to the pixel
    assert len(set(faces)) == FACES
    assert {crops.row_index[index].label for index in faces} == set(crops.row_index.labels.tolist())
    for place, index in enumerate(faces):
        np.testing.assert_array_equal(drawn[1][place], drawn[0][place][:, ::-1])
        for epoch in (1, 2):
            np.testing.assert_array_equal(drawn[11 + epoch][place], crops[index, epoch][1].permute(1, 2, 0))
    for row in (2, 3, 4, 5, 7, 9, 10, 11):  # on every face, whatever their probability
        same = [place for place in range(FACES) if np.array_equal(drawn[row][place], drawn[0][place])]
        assert not same, (names[row], same)


def test_only_what_is_switched_on_is_drawn(crops: FaceCrops, tmp_path: Path) -> None:
    plain = FaceCrops(crops.row_index, Degradation(), 0, Augmentation(flip=0.0, jpeg=0.1), clean=False)
    for name in ("one.png", "two.png"):
        draw_augmentations(plain, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    cells(tmp_path / "one.png", rows=4)  # as stored, JPEG, and two epochs
