"""KFP's view of the evaluations of attributes and classes: what may be missing, and that they run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from kfp import compiler, dsl

from components.evaluate import component
from kubeface.records.record import STEP_FILE, StepRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.storage.folders import read_json
from tests.support.labelled import Photo, write_model, write_tables

NAMES = ("red", "green")
WEIGHTS = np.array([[9, 0], [0, 9], [0, 0]], np.float32)


def test_a_model_from_scratch_is_optional(tmp_path: Path) -> None:
    compiler.Compiler().compile(component.evaluate_classes, str(tmp_path / "classes.yaml"))
    spec = yaml.safe_load((tmp_path / "classes.yaml").read_text("utf-8"))
    artifacts = spec["components"]["comp-evaluate-classes"]["inputDefinitions"]["artifacts"]
    assert {name for name, entry in artifacts.items() if entry.get("isOptional")} == {"scratch"}
    assert set(artifacts) == {"gathered", "divided", "model", "scratch"}


@pytest.mark.parametrize(("task", "scratch"), [(ATTRIBUTES, False), (CLASSES, False), (CLASSES, True)])
def test_it_runs_on_artifacts(task: str, scratch: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photos = []
    for number in range(48):
        part, kind = ("train", "val", "heldout")[number % 3], number // 3 % 2
        colour = np.clip(np.array([200 - 150 * kind, 50 + 150 * kind, 100]) + random.integers(-40, 40, 3), 0, 255)
        labels = {name: int(place == kind) for place, name in enumerate(NAMES)}
        photos.append(Photo(f"p{number}" if task == ATTRIBUTES else NAMES[kind], colour.tolist(), part, labels))
    aligned, split = write_tables(tmp_path, photos)
    folders = [
        write_model(tmp_path / name, NAMES, WEIGHTS, -WEIGHTS, task, split=split) for name in ("model", "scratch")
    ]
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    given: dict[str, Any] = {
        name: SimpleNamespace(path=str(path))
        for name, path in (
            ("gathered", aligned.parent),
            ("divided", split),
            ("model", folders[0]),
            ("evaluation", tmp_path / "out"),
        )
    }
    if scratch:
        given["scratch"] = SimpleNamespace(path=str(folders[1]))
    run = component.evaluate_attributes if task == ATTRIBUTES else component.evaluate_classes
    run.python_func(metrics=metrics, options={"bootstrap": 100, "device": "cpu"}, **given)
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert found["task"] == task
    assert found["gate"]["better"]
    assert set(found["models"]) == {"baseline", "finetuned"} | ({"scratch"} if scratch else set())
    assert metrics.metadata["rows_in"] == 16
    assert StepRecord.read(tmp_path / "out" / STEP_FILE).rows_in == 16
