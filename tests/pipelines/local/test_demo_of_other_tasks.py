"""The demos of attributes and classes, whole: that they gain something, and what such a run leaves."""

from pathlib import Path
from typing import Any, cast

import pytest

from kubeface.records.model import ModelRecord
from kubeface.records.summary import ClassesSummary, SummaryRecord
from kubeface.storage.folders import read_json
from tests.support.commands import run_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


def check_labelled(run: Path, summary: SummaryRecord, pipeline: str, task: str, figure: str) -> None:
    """What every run on labels leaves, and that it was promoted for what it gained."""
    assert (summary.pipeline, summary.task, summary.seed, summary.dataset.images) == (pipeline, task, 1, 400)
    assert {"gather", "audit", "split", "finetune", "evaluate", "promote"} <= summary.steps.keys()
    assert summary.gate.promoted, summary.gate.reason
    gain: dict[str, Any] = summary.model_dump(mode="json")["gain"]
    assert gain["heldout"][figure]["gain_low"] > 0
    model = ModelRecord.read(run / "model" / "model.json")
    assert model.task == task == model.training.task
    for name in ("labels.json", "head.safetensors", "sampling.json", "model.onnx", "start.onnx"):
        assert (run / "model" / name).is_file(), name
    assert "Promoted" in (run / "report.html").read_text("utf-8")
    assert "Data audit" in (run / "data.html").read_text("utf-8")


def test_the_demo_of_attributes_makes_a_better_model_and_promotes_it(tmp_path: Path) -> None:
    run, summary, said = run_demo(tmp_path, "attributes")
    check_labelled(run, summary, "face-attributes", "attributes", "auc")
    labels = read_json(run / "model" / "labels.json")
    for figures in (summary.baseline["heldout"], summary.finetuned["heldout"]):
        assert {"auc", "average_precision", "f1", "accuracy", "balanced_accuracy"} <= figures.keys()
        assert set(cast(dict[str, Any], figures["labels"])) == set(labels)
    html = (run / "report.html").read_text("utf-8")
    assert all(label in html for label in labels)
    assert "start:   sface" in said and "mean AUC" in said and "features alone" in said and "finetuned" in said


def test_the_demo_of_classes_knows_its_people_and_refuses_others(tmp_path: Path) -> None:
    run, summary, said = run_demo(tmp_path, "classes")
    check_labelled(run, summary, "image-classification", "classes", "accuracy")
    assert isinstance(summary, ClassesSummary) and summary.scratch
    names = read_json(run / "model" / "labels.json")
    for model in (summary.baseline, summary.finetuned, summary.scratch):
        for name in ("heldout", "heldout_clean"):
            figures: dict[str, Any] = model[name]
            assert 0 <= figures["accuracy"] <= 1 and figures["classes"].keys() == set(names)
            assert figures["unknown"]["images"] == 10 * (40 - len(names))
    unknown = cast(dict[str, Any], summary.finetuned["heldout_clean"]["unknown"])
    assert unknown["images"] >= 40 and unknown["refused"] > unknown["known_refused"]
    assert cast(float, summary.scratch["heldout"]["accuracy"]) > 0.5  # it has learnt something, or it is a straw man
    (scratch,) = (run / "steps").glob("*/finetune-2/model/model.json")
    assert ModelRecord.read(scratch).backbone == "small_cnn"
    assert "macro-F1" in said and "from scratch" in said
