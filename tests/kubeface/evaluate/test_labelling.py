"""Labels and classes of photographs, as they are told of paths, folders and archives; all without torch."""

import json
import os
import subprocess
import sys
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
from kubeface.evaluate.labelling import attributes, classify
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.faces.mtcnn_networks import write_mtcnn
from kubeface.models.onnx_model import open_model
from kubeface.models.recogniser import open_recogniser
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import MALLOC_SETTINGS
from kubeface.storage import objects
from kubeface.storage.folders import read_json, sha256_file, write_json
from kubeface.storage.sources import Source
from tests.support.labelled import Weights, write_model
from tests.support.tables import rows_of

from .test_inference import WITHOUT_TORCH

ROOT = Path(__file__).parents[3]
LABELS = ("Red", "Green")
NAMES = ("ruby", "emerald", "sapphire", "topaz", "amethyst", "onyx")
# What a label's or class's score makes of red, green and blue, each less a half.
LABEL_WEIGHTS = np.array([[4, 0], [0, 4], [0, 0]], np.float32)
CLASS_WEIGHTS = np.array([[6, 0, 0, 3, 3, -3], [0, 6, 0, 3, 0, -3], [0, 0, 6, 0, 3, -3]], np.float32)
THRESHOLDS = {"Red": 0.7, "Green": 0.5}
REFUSED_UNDER = 0.4


def model_of(folder: Path, task: str, names: tuple[str, ...], weights: Weights, template: str, **told: Any) -> Path:
    """A model folder with threshold.json, as evaluate and promote leave it."""
    write_model(folder, names, weights, -weights, task, template=template)
    told |= {"weights_sha256": read_json(folder / "model.json")["weights_sha256"], "task": task}
    write_json(folder / "threshold.json", told | {"onnx_sha256": sha256_file(folder / "model.onnx")})
    return folder


def labeller(folder: Path, template: str = "whole_224") -> Path:
    """A model that tells red from green."""
    return model_of(folder, ATTRIBUTES, LABELS, LABEL_WEIGHTS, template, labels=THRESHOLDS)


def classifier(folder: Path, template: str = "whole_224") -> Path:
    """A model that tells stones by their colour."""
    return model_of(folder, CLASSES, NAMES, CLASS_WEIGHTS, template, unknown={"threshold": REFUSED_UNDER})


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
    assert (found["rows_in"], found["rows_out"], list(found["photographs"])) == (2, 2, [red, green])
    assert found["photographs"][red] == {
        "labels": {
            "Red": {"score": pytest.approx(share(2)), "threshold": 0.7, "there": True},
            "Green": {"score": pytest.approx(share(-2)), "threshold": 0.5, "there": False},
        },
        "faces": 1,
        "det_score": 1.0,
    }
    assert found["photographs"][green]["labels"]["Green"]["score"] == pytest.approx(share(4 * 0.3))
    assert capsys.readouterr().out == f"{red}: Red\n{green}: Green\n"


def test_the_threshold_of_each_label_decides(photographs: Path, tmp_path: Path) -> None:
    """A score of just the threshold is enough, as in evaluate."""
    folder, name = labeller(tmp_path / "model"), str(photographs / "gold.png")
    score = attributes([name], model=str(folder))["photographs"][name]["labels"]["Red"]["score"]
    for threshold, there in ((score, True), (np.nextafter(score, 2), False)):
        told = read_json(folder / "threshold.json")
        write_json(folder / "threshold.json", told | {"labels": {"Red": float(threshold), "Green": 1.0}})
        labels = attributes([name], model=str(folder))["photographs"][name]["labels"]
        assert labels["Red"] == {"score": score, "threshold": threshold, "there": there}
        assert not labels["Green"]["there"]


def test_classes_of_photographs(photographs: Path, classes_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    red, grey = str(photographs / "red.png"), str(photographs / "more" / "grey.png")
    found = classify([red, grey], model=classes_model)["photographs"]
    logits = (np.array(COLOURS["red"]) / 255 - 0.5) @ CLASS_WEIGHTS
    scores = np.exp(logits) / np.exp(logits).sum()
    assert found[red]["class"] == "ruby"
    assert found[red]["score"] == pytest.approx(scores[0], rel=1e-5)
    assert (found[red]["threshold"], found[red]["refused"]) == (REFUSED_UNDER, False)
    assert len(found[red]["best"]) == 5
    for entry in found[red]["best"]:
        assert entry["score"] == pytest.approx(scores[NAMES.index(entry["class"])], rel=1e-5)
    told = [entry["score"] for entry in found[red]["best"]]
    assert told == pytest.approx(sorted(scores.tolist(), reverse=True)[:5], rel=1e-5)
    assert found[grey]["refused"] is True
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{red}: ruby, score {scores[0]:.3f}"
    assert said[1].startswith(f"{grey}: unknown (nearest ")


def test_without_a_threshold_nobody_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = classifier(tmp_path / "model"), str(photographs / "more" / "grey.png")
    write_json(folder / "threshold.json", read_json(folder / "threshold.json") | {"unknown": None})
    found = classify([name], model=str(folder))["photographs"][name]
    assert (found["threshold"], found["refused"]) == (None, None)
    assert "unknown" not in capsys.readouterr().out


def test_fewer_classes_than_are_told(photographs: Path, tmp_path: Path) -> None:
    folder = model_of(
        tmp_path / "model", CLASSES, NAMES[:2], CLASS_WEIGHTS[:, :2], "whole_224", unknown={"threshold": 0.1}
    )
    name = str(photographs / "red.png")
    best = classify([name], model=str(folder))["photographs"][name]["best"]
    assert [entry["class"] for entry in best] == ["ruby", "emerald"]


def test_a_folder_is_labelled_in_the_order_of_names_and_bad_files_stop_nothing(
    photographs: Path, labels_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(photographs / "missing.png")
    found = attributes([missing, str(photographs)], model=labels_model)
    names = ["cut.png", "gold.png", "green.png", "more/grey.png", "notes.txt", "red.png"]
    assert list(found["photographs"]) == [missing, *(f"{photographs}/{name}" for name in names)]
    assert (found["rows_in"], found["rows_out"]) == (7, 4)
    reasons = {Path(name).name: entry["reason"] for name, entry in found["photographs"].items() if "reason" in entry}
    assert reasons == dict.fromkeys(("missing.png", "cut.png", "notes.txt"), "unreadable")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{missing}: cannot be read as a photograph ({missing} cannot be read: No such file")
    assert said[2] == f"{photographs}/gold.png: Red, Green"
    assert said[4] == f"{photographs}/more/grey.png: Green"  # 128 of 255 is just above a half


def test_an_archive_is_labelled_as_a_folder(photographs: Path, labels_model: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photographs, "")
    found = attributes([str(tmp_path / "photos.tar")], model=labels_model)["photographs"]
    folder = attributes([str(photographs)], model=labels_model)["photographs"]
    assert list(found.values()) == list(folder.values())
    assert f"{tmp_path}/photos.tar/more/grey.png" in found


def test_a_name_that_is_not_utf_8_is_told(photographs: Path, labels_model: str, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(picture((255, 0, 0)))
    (tmp_path / "red.png").write_bytes(picture((255, 0, 0)))
    found = attributes([str(tmp_path)], model=labels_model)
    assert (found["rows_in"], found["rows_out"]) == (2, 1)
    assert json.loads(json.dumps(found)) == found  # as the command line prints it


def test_nothing_that_can_be_used(labels_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no photograph")
    (tmp_path / "none.zip").write_text("no archive")
    given = [str(tmp_path / name) for name in ("empty", "notes.txt", "none.zip")]
    with pytest.raises(KubefaceError, match=r"^none of 3 photographs can be used: see the reason of each above, and"):
        attributes(given, model=labels_model)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{given[0]}: cannot be read as a photograph (it holds no file)"
    assert [line.partition(":")[0] for line in said] == given
    assert "is not a readable archive" in said[2]


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
    assert attributes(["s3://bucket/photos"], model=labels_model)["rows_out"] == 4
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
    names = [str(orl_folder / row["source"]) for row in rows]
    found = classify(names, model=str(folder))["photographs"]
    for name, row in zip(names, rows, strict=True):
        scores = network.scores(decode_rgb(row["image"])[None])[0]
        assert found[name]["score"] == float(scores.max())
        assert found[name]["class"] == NAMES[int(scores.argmax())]
        assert found[name]["det_score"] == pytest.approx(row["det_score"])


def test_a_photograph_without_a_face_is_told(tmp_path: Path, orl_folder: Path) -> None:
    folder = labeller(tmp_path / "model", "arcface_112")
    write_mtcnn(folder / "mtcnn.zip")
    (tmp_path / "wall.png").write_bytes(encode_png(np.full((112, 92, 3), 128, np.uint8)))
    found = attributes([str(tmp_path / "wall.png"), str(orl_folder / "s1")], model=str(folder))["photographs"]
    assert found[str(tmp_path / "wall.png")] == {
        "reason": "no_face",
        "detail": "mtcnn found none of 20 pixels and more",
    }
    assert all("labels" in found[f"{orl_folder}/s1/{number}.pgm"] for number in range(1, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, r"has no threshold\.json: use a promoted version, or copy threshold\.json"),
        ({"onnx_sha256": "7" * 64}, r"threshold\.json is of another model: evaluate this one to get its own"),
        ({"task": "classes"}, r"threshold\.json is of another model"),
        ({"labels": {"Red": 0.5}}, r"threshold\.json has no threshold of Green: evaluate the model again"),
        ({"labels": None}, r"threshold\.json has no threshold of Green, Red: evaluate the model again"),
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
    with pytest.raises(KubefaceError, match=message) as raised:
        attributes([str(photographs / "red.png")], model=str(folder))
    assert "\n" not in str(raised.value)


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
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *arguments],
            cwd=ROOT, env=os.environ | MALLOC_SETTINGS, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        return found

    red, notes = str(photographs / "red.png"), str(photographs / "notes.txt")
    found = figures(run("attributes", red, str(photographs / "more"), notes, "--model", labels_model))
    assert (found["rows_in"], found["rows_out"]) == (3, 2)
    assert found["photographs"][red]["labels"]["Red"]["there"] is True
    assert figures(run("classify", red, "--model", classes_model))["photographs"][red]["class"] == "ruby"
    done = run("classify", notes, "--model", classes_model)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stdout.startswith(f"{notes}: cannot be read as a photograph (")
    text = run("--help").stdout
    assert all(name in text for name in ("evaluate-attributes", "evaluate-classes", "attributes", "classify"))
