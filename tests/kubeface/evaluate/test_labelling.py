"""Labels and classes of photographs, as they are told of paths, folders and archives; all without torch."""

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.evaluate import labelling as module
from kubeface.evaluate.labelling import (
    LabelScore,
    PhotographClass,
    PhotographLabels,
    UnusedPhotograph,
    attributes,
    classify,
)
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.faces.mtcnn_networks import write_mtcnn
from kubeface.models.onnx_model import open_model
from kubeface.models.recogniser import open_recogniser
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.folders import read_json, sha256_file, write_json
from kubeface.storage.sources import Source
from tests.support.commands import run_without
from tests.support.labelled import Weights, write_model
from tests.support.tables import rows_of

LABELS = ("Red", "Green")
NAMES = ("ruby", "emerald", "sapphire", "topaz", "amethyst", "onyx")
# What a label's or class's score makes of red, green and blue, each less a half.
LABEL_WEIGHTS = np.array([[4, 0], [0, 4], [0, 0]], np.float32)
CLASS_WEIGHTS = np.array([[6, 0, 0, 3, 3, -3], [0, 6, 0, 3, 0, -3], [0, 0, 6, 0, 3, -3]], np.float32)
THRESHOLDS = {"Red": 0.7, "Green": 0.5}
REFUSED_UNDER = 0.4


def model_of(folder: Path, task: str, names: tuple[str, ...], weights: Weights, template: str, **given: Any) -> Path:
    """A model folder with threshold.json, as evaluate and promote leave it."""
    write_model(folder, names, weights, -weights, task, template=template)
    given |= {"weights_sha256": read_json(folder / "model.json")["weights_sha256"], "task": task}
    given |= {"degradation": "none", "chosen_on": {"split": "val", "images": 9}}
    write_json(folder / "threshold.json", given | {"onnx_sha256": sha256_file(folder / "model.onnx")})
    return folder


def labeller(folder: Path, template: str = "whole_224") -> Path:
    """A model that tells red from green."""
    return model_of(folder, ATTRIBUTES, LABELS, LABEL_WEIGHTS, template, labels=THRESHOLDS)


def classifier(folder: Path, template: str = "whole_224", classes: int = len(NAMES)) -> Path:
    """A model that tells stones by their colour."""
    refusal = {"threshold": REFUSED_UNDER, "images": 0, "refused": None, "known_refused": 0.05}
    return model_of(
        folder, CLASSES, NAMES[:classes], CLASS_WEIGHTS[:, :classes], template, refuse=0.05,
        unknown=refusal | {"accuracy_of_accepted": 0.9},
    )  # fmt: skip


@pytest.fixture(scope="module")
def labels_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(labeller(tmp_path_factory.mktemp("models") / "labels"))


@pytest.fixture(scope="module")
def classes_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(classifier(tmp_path_factory.mktemp("models") / "classes"))


def picture(colour: tuple[int, int, int]) -> bytes:
    """A wide photograph whose middle square has the colour; white stands beside it, which no crop shows."""
    pixels = np.full((60, 100, 3), 255, np.uint8)
    pixels[:, 20:80] = colour
    return encode_png(pixels)


COLOURS = {"red": (255, 0, 0), "green": (0, 204, 0), "gold": (255, 255, 0), "grey": (128, 128, 128)}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph of each colour, one of them in a folder of its own, and two files that are none."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "more").mkdir()
    for name, colour in COLOURS.items():
        (root / ("more" if name == "grey" else "") / f"{name}.png").write_bytes(picture(colour))
    (root / "cut.png").write_bytes(picture((0, 0, 255))[:60])
    (root / "notes.txt").write_text("no photograph")
    return root


def share(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def test_labels_of_photographs(photographs: Path, labels_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    red, green = str(photographs / "red.png"), str(photographs / "green.png")
    found = attributes([red, green], model=labels_model)
    assert (found.rows_in, found.rows_out, list(found.photographs)) == (2, 2, [red, green])
    entry = found.photographs[red]
    assert isinstance(entry, PhotographLabels) and (entry.faces, entry.det_score) == (1, 1.0)
    assert [(name, label.threshold, label.there) for name, label in entry.labels.items()] == [
        ("Red", 0.7, True),
        ("Green", 0.5, False),
    ]
    assert [label.score for label in entry.labels.values()] == pytest.approx([share(2), share(-2)])
    assert labels_of(found.photographs[green])["Green"].score == pytest.approx(share(4 * 0.3))
    assert capsys.readouterr().out == f"{red}: Red\n{green}: Green\n"


def labels_of(entry: PhotographLabels | UnusedPhotograph) -> dict[str, LabelScore]:
    assert isinstance(entry, PhotographLabels)
    return entry.labels


def class_of(name: str, model: Path | str) -> PhotographClass:
    """What is said of one photograph."""
    entry = classify([name], model=str(model)).photographs[name]
    assert isinstance(entry, PhotographClass)
    return entry


def test_the_threshold_of_each_label_decides(photographs: Path, tmp_path: Path) -> None:
    """A score of just the threshold is enough, as in evaluate."""
    folder, name = labeller(tmp_path / "model"), str(photographs / "gold.png")
    score = labels_of(attributes([name], model=str(folder)).photographs[name])["Red"].score
    for threshold, there in ((score, True), (float(np.nextafter(score, 2)), False)):
        values = read_json(folder / "threshold.json")
        write_json(folder / "threshold.json", values | {"labels": {"Red": threshold, "Green": 1.0}})
        labels = labels_of(attributes([name], model=str(folder)).photographs[name])
        assert labels["Red"] == LabelScore(score=score, threshold=threshold, there=there)
        assert not labels["Green"].there


def test_classes_of_photographs(photographs: Path, classes_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    red, grey = str(photographs / "red.png"), str(photographs / "more" / "grey.png")
    found = class_of(red, classes_model)
    logits = (np.array(COLOURS["red"]) / 255 - 0.5) @ CLASS_WEIGHTS
    scores = np.exp(logits) / np.exp(logits).sum()
    assert (found.name, found.threshold, found.refused) == ("ruby", REFUSED_UNDER, False)
    assert found.score == pytest.approx(scores[0], rel=1e-5)
    for entry in found.best:
        assert entry.score == pytest.approx(scores[NAMES.index(entry.name)], rel=1e-5)
    expected = sorted(scores.tolist(), reverse=True)[:5]
    assert [entry.score for entry in found.best] == pytest.approx(expected, rel=1e-5)
    assert found.model_dump(mode="json")["class"] == found.model_dump(mode="json")["best"][0]["class"] == "ruby"
    assert class_of(grey, classes_model).refused is True
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{red}: ruby, score {scores[0]:.3f}"
    assert lines[1].startswith(f"{grey}: unknown (nearest ")


def test_without_a_threshold_nobody_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classifier(tmp_path / "model", classes=2)
    write_json(folder / "threshold.json", read_json(folder / "threshold.json") | {"unknown": None})
    found = class_of(str(photographs / "more" / "grey.png"), folder)
    assert (found.threshold, found.refused) == (None, None)
    assert {entry.name for entry in found.best} == set(NAMES[:2])  # fewer than are listed of many
    assert "unknown" not in capsys.readouterr().out


def test_a_folder_or_archive_is_labelled_in_the_order_of_names_and_bad_files_stop_nothing(
    photographs: Path, labels_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(photographs / "missing.png")
    found = attributes([missing, str(photographs)], model=labels_model)
    names = ["cut.png", "gold.png", "green.png", "more/grey.png", "notes.txt", "red.png"]
    assert list(found.photographs) == [missing, *(f"{photographs}/{name}" for name in names)]
    assert (found.rows_in, found.rows_out) == (7, 4)
    unused = {Path(name).name: e.reason for name, e in found.photographs.items() if isinstance(e, UnusedPhotograph)}
    assert unused == dict.fromkeys(("missing.png", "cut.png", "notes.txt"), "unreadable")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{missing}: cannot be read as a photograph ({missing} cannot be read: No such file")
    assert lines[2] == f"{photographs}/gold.png: Red, Green"
    assert lines[4] == f"{photographs}/more/grey.png: Green"  # 128 of 255 is just above a half
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photographs, "")
    packed = attributes([str(tmp_path / "photos.tar")], model=labels_model).photographs
    assert list(packed.items()) == [
        (name.replace(str(photographs), f"{tmp_path}/photos.tar"), entry)
        for name, entry in found.photographs.items()
        if name != missing
    ]


def test_a_name_that_is_not_utf_8_is_named(labels_model: str, tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9.png"), "red.png"):
        (tmp_path / name).write_bytes(picture((255, 0, 0)))
    found = attributes([str(tmp_path)], model=labels_model)
    assert (found.rows_in, found.rows_out) == (2, 1)
    values = found.model_dump(mode="json")
    assert json.loads(json.dumps(values)) == values  # as the command line prints it


def test_nothing_that_can_be_used(labels_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no photograph")
    (tmp_path / "none.zip").write_text("no archive")
    given = [str(tmp_path / name) for name in ("empty", "notes.txt", "none.zip")]
    with pytest.raises(KubefaceError, match=r"^none of 3 photographs can be used: see the reason of each above, and"):
        attributes(given, model=labels_model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{given[0]}: cannot be read as a photograph (it holds no file)"
    assert [line.partition(":")[0] for line in lines] == given
    assert "is not a readable archive" in lines[2]


def test_a_prefix_of_a_store_is_a_folder_and_a_store_that_is_away_ends_it(
    photographs: Path, labels_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away: set[str] = set()

    def read(name: str) -> bytes:
        if name in away:
            raise KubefaceError(f"s3://bucket/{name} cannot be read: no answer")
        return (photographs / name).read_bytes()

    @contextmanager
    def open_store(uri: str) -> Iterator[Source]:
        assert uri == "s3://bucket/photos"
        yield Source(objects.list_files(str(photographs)), read)

    exists = objects.exists
    monkeypatch.setattr(objects, "exists", lambda uri: uri.endswith(".png") if objects.is_s3(uri) else exists(uri))
    monkeypatch.setattr(module, "open_source", open_store)
    assert attributes(["s3://bucket/photos"], model=labels_model).rows_out == 4
    away.add("green.png")
    with pytest.raises(KubefaceError, match=r"green\.png cannot be read: no answer$"):
        attributes(["s3://bucket/photos"], model=labels_model)


@pytest.mark.parametrize(
    "options",
    [
        AlignOptions(template="arcface_112"),
        AlignOptions(template="portrait_224"),
        AlignOptions(detector="none", template="whole_224"),
    ],
)
def test_a_photograph_becomes_the_crop_that_align_makes(
    options: AlignOptions, orl_folder: Path, faces_table: Path, tmp_path: Path
) -> None:
    """The scores are those of the aligned table's own crops, to the last bit."""
    folder = classifier(tmp_path / "model", options.template)
    if options.detector == "mtcnn":
        write_mtcnn(folder / "mtcnn.zip")
    align(faces_table, tmp_path / "aligned", options)
    network = open_model(str(folder), "cpu")
    rows = rows_of(tmp_path / "aligned")[:6]
    found = classify([str(orl_folder / row["source"]) for row in rows], model=str(folder)).photographs
    for entry, row in zip(found.values(), rows, strict=True):
        scores = network.scores(decode_rgb(row["image"])[None])[0]
        assert isinstance(entry, PhotographClass)
        assert (entry.name, entry.score) == (NAMES[int(scores.argmax())], float(scores.max()))
        assert entry.det_score == pytest.approx(row["det_score"])


def test_a_photograph_without_a_face_is_told(tmp_path: Path, orl_folder: Path) -> None:
    folder = labeller(tmp_path / "model", "arcface_112")
    write_mtcnn(folder / "mtcnn.zip")
    (tmp_path / "wall.png").write_bytes(encode_png(np.full((112, 92, 3), 128, np.uint8)))
    found = attributes([str(tmp_path / "wall.png"), str(orl_folder / "s1")], model=str(folder)).photographs
    wall, *faces = found.values()
    assert wall == UnusedPhotograph(reason="no_face", detail="mtcnn found none of 20 pixels and more")
    assert len(faces) == 5 and all(isinstance(entry, PhotographLabels) for entry in faces)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, r"has no threshold\.json: use a promoted version, or copy threshold\.json"),
        ({"onnx_sha256": "7" * 64}, r"threshold\.json is of another model: evaluate this one to get its own"),
        ({"task": "classes"}, r"threshold\.json is of another model"),
        ({"labels": {"Red": 0.5}}, r"threshold\.json has no threshold of Green: evaluate the model again"),
        ({"labels": None}, r"threshold\.json is not what this release reads \(labels "),
    ],
)
def test_thresholds_that_are_not_the_models_own_are_refused(
    changes: dict[str, Any] | None, message: str, photographs: Path, tmp_path: Path
) -> None:
    folder = labeller(tmp_path / "model")
    told = read_json(folder / "threshold.json")
    (folder / "threshold.json").unlink()
    if changes is not None:
        write_json(folder / "threshold.json", told | changes)
    with pytest.raises(KubefaceError, match=message):
        attributes([str(photographs / "red.png")], model=str(folder))


def test_a_model_of_another_task_is_refused(photographs: Path, labels_model: str, classes_model: str) -> None:
    name = str(photographs / "red.png")
    with pytest.raises(KubefaceError, match="is a model of classes: give one of attributes"):
        attributes([name], model=classes_model)
    with pytest.raises(KubefaceError, match="is a model of attributes: give one of classes"):
        classify([name], model=labels_model)
    with pytest.raises(KubefaceError, match="does not exist"):
        classify([name], model="nowhere")
    with pytest.raises(KubefaceError, match="is a model of classes, by which nobody is recognised"):
        open_recogniser(classes_model)


def test_the_commands_run_without_torch(photographs: Path, labels_model: str, classes_model: str) -> None:
    red, notes = str(photographs / "red.png"), str(photographs / "notes.txt")
    labels, kind, failed = run_without(
        ("torch", "torchvision", "facenet_pytorch", "onnx", "safetensors", "scipy", "sklearn", "timm"),
        ("attributes", red, str(photographs / "more"), notes, "--model", labels_model),
        ("classify", red, "--model", classes_model),
        ("classify", notes, "--model", classes_model),
    )
    assert (labels.figures["rows_in"], labels.figures["rows_out"]) == (3, 2)
    assert labels.figures["photographs"][red]["labels"]["Red"]["there"] is True
    assert kind.figures["photographs"][red]["class"] == "ruby"
    assert (failed.code, len(failed.err.splitlines())) == (1, 1)
    assert failed.out.startswith(f"{notes}: cannot be read as a photograph (")
