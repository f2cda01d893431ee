"""Attributes and classes as kfp.local runs them, whole: what a run leaves, and that it ends early where it should."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from kubeface.records.model import ModelRecord
from kubeface.records.summary import ClassesSummary, SummaryRecord, read_summary
from kubeface.storage.folders import read_json
from pipelines.local.run import print_outcome, run_local
from tests.support.images import write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PEOPLE, PHOTOGRAPHS = 8, 4
QUICK: dict[str, Any] = {
    "backbone": "sface",
    "recipe": "",
    "finetune": {"strategy": "full", "head_epochs": 1, "epochs": 1},
    "evaluate": {"bootstrap": 100},
    "seed": 5,
}


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    folder: Path
    arguments: dict[str, Any]
    summary: SummaryRecord


@pytest.fixture(scope="module")
def people(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in a folder for each person, and beside it a listing with two labels."""
    root = tmp_path_factory.mktemp("labelled")
    rows = ["path,identity,Even,Late"]
    for person in range(1, PEOPLE + 1):
        for number in range(1, PHOTOGRAPHS + 1):
            name = f"s{person}/{number}.pgm"
            write_files(root / "people", {name: orl[name]})
            late = "" if (person, number) == (1, 1) else int(number > 2)  # one is not known
            rows.append(f"{name},s{person},{1 - number % 2},{late}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return root


def run(folder: Path, pipeline: str, people: Path, **arguments: Any) -> Run:
    """A run of a pipeline on the people."""
    own = QUICK | {"source": str(people / "people"), "models": str(people / "models")} | arguments
    return Run(folder, own, run_local(own, folder, pipeline=pipeline))


@pytest.fixture(scope="module")
def attributes(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"ingest": {"listing": str(people / "labels.csv")}, "split": {"heldout_fraction": 0.5}}
    return run(tmp_path_factory.mktemp("runs") / "attributes", "face-attributes", people, name="labels", **settings)


@pytest.fixture(scope="module")
def classes(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"split": {"unknown_fraction": 0.5}, "scratch": {"epochs": 1}, "degradation": "noise:30"}
    return run(tmp_path_factory.mktemp("runs") / "classes", "image-classification", people, name="people", **settings)


def check_what_every_run_leaves(done: Run, pipeline: str, task: str) -> None:
    folder, summary = done.folder, done.summary
    assert (summary.pipeline, summary.task, summary.seed) == (pipeline, task, 5)
    assert read_summary(folder / "summary.json") == summary
    assert summary.dataset.images == PEOPLE * PHOTOGRAPHS
    assert {"gather", "audit", "split", "finetune", "evaluate", "promote"} <= summary.steps.keys()
    model = ModelRecord.read(folder / "model" / "model.json")
    assert model.task == task == model.training.task
    for name in ("labels.json", "head.safetensors", "sampling.json", "model.onnx", "start.onnx"):
        assert (folder / "model" / name).is_file(), name
    html = (folder / "report.html").read_text("utf-8")
    assert ("Promoted" if summary.gate.promoted else "Not promoted") in html
    assert "Data audit" in (folder / "data.html").read_text("utf-8")


def test_attributes(attributes: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder, summary = attributes.folder, attributes.summary
    check_what_every_run_leaves(attributes, "face-attributes", "attributes")
    assert read_json(folder / "model" / "labels.json") == ["Even", "Late"]
    for figures in (summary.baseline["heldout"], summary.finetuned["heldout"]):
        assert {"auc", "average_precision", "f1", "accuracy", "balanced_accuracy"} <= figures.keys()
        assert set(cast(dict[str, Any], figures["labels"])) == {"Even", "Late"}
    html = (folder / "report.html").read_text("utf-8")
    assert "Even" in html and "Late" in html
    print_outcome(summary, folder)
    told = capsys.readouterr().out
    assert "mean AUC" in told and "features alone" in told and "finetuned" in told


def test_classes_with_a_network_from_scratch_and_unknown_people(
    classes: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = classes.folder, classes.summary
    check_what_every_run_leaves(classes, "image-classification", "classes")
    names = read_json(folder / "model" / "labels.json")
    assert 2 <= len(names) < PEOPLE
    assert isinstance(summary, ClassesSummary) and summary.scratch
    for model in (summary.baseline, summary.finetuned, summary.scratch):
        for name in ("heldout", "heldout_clean"):
            figures: dict[str, Any] = model[name]
            assert 0 <= figures["accuracy"] <= 1 and figures["classes"].keys() == set(names)
            assert figures["unknown"]["images"] == PHOTOGRAPHS * (PEOPLE - len(names))
    (scratch,) = (folder / "steps").glob("*/finetune-2/model/model.json")
    assert ModelRecord.read(scratch).backbone == "small_cnn"
    print_outcome(summary, folder)
    told = capsys.readouterr().out
    assert "macro-F1" in told and "from scratch" in told


def test_without_drift_a_run_that_waits_for_it_leaves_the_same_model(
    attributes: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The promoted one, or where nothing is promoted one that is trained anew."""
    folder, promoted = tmp_path / "run", attributes.summary.gate.promoted
    waiting = {"audit": {"on_drift": "retrain", "max_drift": 0.25}}
    summary = run_local(attributes.arguments | waiting, folder, pipeline="face-attributes")
    assert summary.trained is not promoted
    same = (folder / "model" / "model.safetensors").read_bytes()
    assert same == (attributes.folder / "model" / "model.safetensors").read_bytes()
    print_outcome(summary, folder)
    assert ("not trained: " in capsys.readouterr().out) is promoted
