"""The properties of a model's artifacts: what the UI shows is known, short and no None."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.properties import MOST_LETTERS, describe_model, describe_promotion
from kubeface.records.evaluation import AttributesThreshold, ClassesThreshold, RecognitionThreshold
from kubeface.records.labelled_figures import ChosenOn, RefusalFigures
from kubeface.records.promotion import PromotionRecord
from kubeface.records.record import Record
from kubeface.storage.folders import read_json, write_json
from tests.support.evaluations import CALIBRATION
from tests.support.promoted_models import make

REFUSAL = RefusalFigures(threshold=0.6, images=3, refused=0.9, known_refused=0.1, accuracy_of_accepted=0.8)
OF_LABELS: dict[str, Any] = {
    "weights_sha256": "1", "onnx_sha256": "2", "degradation": "none", "chosen_on": ChosenOn(split="val", images=9),
}  # fmt: skip
KIND = {"backbone": "sface", "start_license": "Apache-2.0"}


def artifact(path: Path) -> Any:
    return SimpleNamespace(path=str(path), uri="", metadata={"display_name": "kept"})


def test_a_model_says_what_it_is(tmp_path: Path) -> None:
    model, _ = make(tmp_path, better=True)
    trained = artifact(model)
    describe_model(trained, "s3://b/models/door")
    assert trained.metadata == {"display_name": "kept", "name": "door", "task": "recognition", **KIND}
    write_json(model / "model.json", read_json(model / "model.json") | {"trained": False, "reason": "no drift"})
    handed_on = artifact(model)
    describe_model(handed_on, "")
    assert handed_on.metadata == {"display_name": "kept", "promoted": True, "task": "recognition", **KIND}


@pytest.mark.parametrize(
    ("task", "threshold", "expected"),
    [
        (
            "recognition",
            RecognitionThreshold.parse(CALIBRATION | {"weights_sha256": "1", "degradation": "none"}, "made"),
            "threshold",
        ),
        ("attributes", AttributesThreshold(**OF_LABELS, labels={"Smiling": 0.4}), "thresholds"),
        ("classes", ClassesThreshold(**OF_LABELS, unknown=REFUSAL, refuse=0.05), "threshold"),
        ("classes", ClassesThreshold(**OF_LABELS, unknown=None, refuse=0), ""),
        ("recognition", None, ""),
    ],
)
def test_a_promotion_says_what_came_of_it(task: str, threshold: Record | None, expected: str, tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True, task=task)
    if threshold:
        threshold.write(evaluation / "threshold.json")
    made = PromotionRecord(producer="p", promoted=True, reason="word " * 99, uri="s3://b/7", version="7")
    (tmp_path / "promotion").mkdir()
    made.write(tmp_path / "promotion" / "promotion.json")
    promotion = artifact(tmp_path / "promotion")
    describe_promotion(promotion, artifact(model), artifact(evaluation), "door")
    told = promotion.metadata
    assert len(told.pop("reason")) <= MOST_LETTERS
    values = {"threshold": getattr(threshold, "threshold", 0.6), "thresholds": {"Smiling": 0.4}}
    assert told == {"display_name": "kept", "name": "door", "task": task, **KIND} | {
        "promoted": True, "uri": "s3://b/7", "version": "7", **({expected: values[expected]} if expected else {}),
    }  # fmt: skip


def test_a_model_that_was_not_promoted_has_no_version(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=False)
    (tmp_path / "promotion").mkdir()
    PromotionRecord(producer="p", promoted=False, reason="98 % → 97 %, −1; 田中").write(
        tmp_path / "promotion" / "promotion.json"
    )
    promotion = artifact(tmp_path / "promotion")
    describe_promotion(promotion, artifact(model), artifact(evaluation), "door")
    assert promotion.metadata["promoted"] is False and not {"version", "uri"} & promotion.metadata.keys()
    assert promotion.metadata["reason"] == "98 % -> 97 %, -1; ??"  # a database of Latin-1 keeps no other letters
