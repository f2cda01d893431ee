"""Attributes and classes as kfp.local runs them, whole: what a run leaves, and that it ends early where it should."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.run import print_outcome, run_local

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PEOPLE, PHOTOGRAPHS = 8, 4
QUICK: dict[str, Any] = {
    "backbone": "sface",
    "recipe": "",
    "finetune": {"strategy": "full", "head_epochs": 1, "epochs": 1},
    "evaluate": {"bootstrap": 100},
    "seed": 5,
}
Run = tuple[Path, dict[str, Any], dict[str, Any]]  # folder, arguments, summary


@pytest.fixture(scope="module")
def people(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in a folder for each person, and beside it a listing with two labels."""
    root = tmp_path_factory.mktemp("labelled")
    rows = ["path,identity,Even,Late"]
    for person in range(1, PEOPLE + 1):
        for number in range(1, PHOTOGRAPHS + 1):
            path = root / "people" / f"s{person}" / f"{number}.pgm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orl[f"s{person}/{number}.pgm"])
            late = "" if (person, number) == (1, 1) else int(number > 2)  # one is not known
            rows.append(f"s{person}/{number}.pgm,s{person},{1 - number % 2},{late}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return root


def run(folder: Path, pipeline: str, arguments: dict[str, Any]) -> Run:
    return folder, arguments, run_local(arguments, folder, pipeline=pipeline)


@pytest.fixture(scope="module")
def attributes(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    arguments = QUICK | {
        "source": str(people / "people"),
        "ingest": {"listing": str(people / "labels.csv")},
        "models": str(people / "models"),
        "name": "labels",
        "split": {"heldout_fraction": 0.5},
    }
    return run(tmp_path_factory.mktemp("runs") / "attributes", "face-attributes", arguments)


@pytest.fixture(scope="module")
def classes(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    arguments = QUICK | {
        "source": str(people / "people"),
        "models": str(people / "models"),
        "name": "people",
        "split": {"unknown_fraction": 0.5},
        "scratch": {"epochs": 1},
        "degradation": "noise:30",
    }
    return run(tmp_path_factory.mktemp("runs") / "classes", "image-classification", arguments)


def leaves(done: Run, pipeline: str, task: str) -> None:
    """What every run leaves, whatever it is for."""
    folder, _, summary = done
    assert (summary["pipeline"], summary["task"], summary["seed"]) == (pipeline, task, 5)
    assert json.loads((folder / "summary.json").read_text("utf-8")) == summary
    assert summary["dataset"]["images"] == PEOPLE * PHOTOGRAPHS
    assert {"gather", "audit", "split", "finetune", "evaluate", "promote"} <= summary["steps"].keys()
    assert isinstance(summary["gate"]["promoted"], bool)
    model = json.loads((folder / "model" / "model.json").read_text("utf-8"))
    assert model["task"] == task and model["training"]["task"] == task
    for name in ("labels.json", "head.safetensors", "sampling.json", "model.onnx", "start.onnx"):
        assert (folder / "model" / name).is_file(), name
    html = (folder / "report.html").read_text("utf-8")
    assert ("Promoted" if summary["gate"]["promoted"] else "Not promoted") in html
    assert "Data audit" in (folder / "data.html").read_text("utf-8")


def test_attributes(attributes: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, summary = attributes
    leaves(attributes, "face-attributes", "attributes")
    assert json.loads((folder / "model" / "labels.json").read_text("utf-8")) == ["Even", "Late"]
    for which in ("baseline", "finetuned"):
        figures = summary[which]["heldout"]
        assert {"auc", "average_precision", "f1", "accuracy", "balanced_accuracy"} <= figures.keys()
        assert figures["labels"].keys() == {"Even", "Late"}
    html = (folder / "report.html").read_text("utf-8")
    assert "Even" in html and "Late" in html
    print_outcome(summary, folder)
    told = capsys.readouterr().out
    assert "mean AUC" in told and "features alone" in told and "finetuned" in told


def test_classes_with_a_network_from_scratch_and_unknown_people(
    classes: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, summary = classes
    leaves(classes, "image-classification", "classes")
    names = json.loads((folder / "model" / "labels.json").read_text("utf-8"))
    assert 2 <= len(names) < PEOPLE
    for which in ("baseline", "finetuned", "scratch"):
        for name in ("heldout", "heldout_clean"):
            figures = summary[which][name]
            assert 0 <= figures["accuracy"] <= 1 and figures["classes"].keys() == set(names)
            assert figures["unknown"]["images"] == PHOTOGRAPHS * (PEOPLE - len(names))
    (scratch,) = (folder / "steps").glob("*/finetune-2/model/model.json")
    assert json.loads(scratch.read_text("utf-8"))["backbone"] == "small_cnn"
    print_outcome(summary, folder)
    told = capsys.readouterr().out
    assert "macro-F1" in told and "from scratch" in told


def test_without_drift_a_run_that_waits_for_it_hands_on_the_promoted_model(
    attributes: Run, classes: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for done, pipeline in ((attributes, "face-attributes"), (classes, "image-classification")):
        before, arguments, first = done
        folder = tmp_path / pipeline
        waiting = {"audit": {"on_drift": "retrain", "max_drift": 0.25}}
        summary = run_local(arguments | waiting, folder, pipeline=pipeline)
        assert summary["trained"] is not first["gate"]["promoted"]  # there is something to hand on, or there is not
        same = (folder / "model" / "model.safetensors").read_bytes()
        assert same == (before / "model" / "model.safetensors").read_bytes()
        print_outcome(summary, folder)
        assert ("not trained: " in capsys.readouterr().out) is first["gate"]["promoted"]
