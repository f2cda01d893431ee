"""Trainings of attributes and of classes, on crops of ORL's people and a network that trains in a moment."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from kubeface.finetune import model_folder
from kubeface.finetune.distributed import Group
from kubeface.finetune.trainer import Trainer
from kubeface.models.model import FaceModel, load_pretrained
from kubeface.records.model import OnnxRecord
from kubeface.runtime.errors import KubefaceError

from .conftest import Run, Train, changed, same

LABELS = ("Smiling", "Eyeglasses", "Left_Side")


def told(run: Run, name: str) -> Any:
    return json.loads((run.folder / name).read_text())


TASKS = pytest.mark.parametrize("task", ["attributes", "classes"])


@pytest.mark.parametrize(
    ("task", "choices"), [("attributes", {}), ("classes", {}), ("classes", {"head": "softmax"})], ids=str
)
def test_what_a_training_leaves(learn_once: Train, task: str, choices: dict[str, Any]) -> None:
    found = learn_once(task, onnx=True, keep_checkpoints=0, **choices)
    names = sorted(LABELS) if task == "attributes" else ["s1", "s2", "s3", "s4"]
    config = told(found, "model.json")
    assert config["task"] == found.training["task"] == task
    assert found.training["labels"] == told(found, "labels.json") == names
    assert told(found, "identities.json") == (["s1", "s2", "s3"] if task == "attributes" else names)
    assert [row["stage"] for row in found.history] == [1, 1, 2, 2]
    assert found.result.labels == len(names)
    assert (found.result.val_auc is None) == (task == "classes")
    kept = safetensors.torch.load_file(found.folder / "head.safetensors")
    shapes = {name: tuple(value.shape) for name, value in kept.items()}
    assert shapes == {"weight": (len(names), 16), "bias": (len(names),)}
    for name in ("model.onnx", "start.onnx"):
        session = onnxruntime.InferenceSession(str(found.folder / name))
        assert [output.name for output in session.get_outputs()] == ["embeddings", "scores"]
        crops = np.random.default_rng(0).uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
        embeddings, scores = session.run(None, {"crops": crops})
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)
        assert scores.shape == (3, len(names))
        assert ((scores >= 0) & (scores <= 1)).all()
        if task == "classes":
            assert scores.sum(1) == pytest.approx(1, abs=1e-5)
            if not choices and name == "model.onnx":
                logits = linear(torch.from_numpy(embeddings), kept["weight"], kept["bias"])
                assert scores == pytest.approx(logits.softmax(1).numpy(), abs=1e-4)


@TASKS
def test_the_start_is_the_starting_backbone_with_the_best_head_of_stage_1(
    learn_once: Train, tiny: dict[str, Tensor], task: str
) -> None:
    found = learn_once(task, onnx=True, keep_checkpoints=0)
    heads = {row["epoch"]: found.checkpoint(f"epoch_0{row['epoch']}", "head") for row in found.history}
    best = min((row for row in found.history if row["stage"] == 1), key=lambda row: row["val_loss"])["epoch"]
    assert same(found.checkpoint("stage_1", "head"), heads[best])
    assert changed(heads[1], heads[2])
    for epoch, moved in ((1, False), (2, False), (3, True), (4, True)):
        assert bool(changed(found.checkpoint(f"epoch_0{epoch}"), tiny)) == moved
    crops = np.random.default_rng(0).uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(found.folder / "start.onnx"))
    scores = session.run(["scores"], {"crops": crops})[0]
    start = load_pretrained("tiny")
    embeddings = start.network(start.prepare(torch.from_numpy(crops)))
    if task == "classes":  # the default head has margins
        logits = 64 * linear(normalize(embeddings), normalize(heads[best]["weight"]))
    else:
        logits = linear(embeddings, heads[best]["weight"], heads[best]["bias"])
    expected = logits.sigmoid() if task == "attributes" else logits.softmax(1)
    assert scores == pytest.approx(expected.detach().numpy(), abs=1e-3)


@TASKS
def test_fine_tuning_that_does_not_help(
    learn: Train, tiny: dict[str, Tensor], task: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Trainer, "_is_better", lambda self, _: len(self.state.history) < 2)
    found = learn(task)
    assert found.result.best_epoch == 2
    assert same(found.weights, tiny)
    assert "the model is the starting backbone with the head of epoch 2" in capsys.readouterr().out


@TASKS
def test_stage_1_stops_early_and_stage_2_begins(learn: Train, task: str) -> None:
    found = learn(task, head_epochs=9, head_patience=1, head_lr=1e-30, epochs=1)
    assert [row["stage"] for row in found.history] == [1, 1, 2]


@TASKS
@pytest.mark.parametrize(
    "choices",
    [
        {"strategy": "partial", "num_layers": 1},
        {"strategy": "differential"},
        {"strategy": "lora", "lora_rank": 2},
        {"strategy": "full", "frozen_layers": 1, "ema": 0.5},
        {"strategy": "head_only"},
        {"strategy": "scratch", "freeze_batch_norm": False, "onnx": True, "seed": 1},
    ],
    ids=lambda choices: choices["strategy"],
)
def test_strategies(
    learn: Train, tiny: dict[str, Tensor], task: str, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[FaceModel] = []

    def exported(_: FaceModel, start: FaceModel, *__: Any) -> OnnxRecord:
        starts.append(start)
        return OnnxRecord()

    monkeypatch.setattr(model_folder, "export_models", exported)
    found = learn(task, keep_checkpoints=0, **choices)
    strategy = choices["strategy"]
    stages = {"scratch": [2, 2], "head_only": [1, 1]}.get(strategy, [1, 1, 2, 2])
    assert [row["stage"] for row in found.history] == stages
    moved = changed(found.checkpoint(f"epoch_0{len(found.history)}"), tiny)
    if strategy == "head_only":
        assert not moved
    if strategy == "partial":
        assert moved == {"8.weight", "8.bias", "9.weight", "9.bias"}
    if strategy == "full":
        assert {"0.weight", "1.weight", "2.weight"}.isdisjoint(moved)
        assert "3.weight" in moved
    if strategy == "scratch":
        assert not (found.folder / "checkpoints" / "stage_1.safetensors").exists()
        (start,) = starts  # what it began with, and not the published weights
        assert changed(start.network.state_dict(), tiny) >= {"0.weight", "3.weight", "8.weight"}


def test_all_labels_or_those_named(learn: Train, capsys: pytest.CaptureFixture[str]) -> None:
    found = learn("attributes", labels="Smiling Eyeglasses")
    assert told(found, "labels.json") == ["Smiling", "Eyeglasses"]
    said = capsys.readouterr().out.splitlines()[0]
    left_out = int(said.split(";")[1].split()[0])
    assert said.startswith(f"finetune: 2 labels of {found.result.rows_out} images to train on")
    assert found.result.rows_in + left_out == 25
    with pytest.raises(KubefaceError, match="label 'Beard' is no binary column"):
        learn("attributes", "other", labels="Beard")
    with pytest.raises(KubefaceError, match="labels is 'Smiling': task classes has none, leave it out"):
        learn("classes", "other", labels="Smiling")


def test_sampling_is_told(learn: Train) -> None:
    found = told(learn("classes", balance="sampler"), "sampling.json")
    each = dict.fromkeys(("s1", "s2", "s3", "s4"), 3)
    assert found == {"images": 12, "drawn": 12, "before": each, "after": each}
    plain, even = (told(learn("attributes", name, balance=name), "sampling.json") for name in ("none", "sampler"))
    assert plain["before"] == plain["after"] == even["before"]
    assert even["after"].keys() == set(LABELS)
    assert even["before"]["Left_Side"] == 0


def test_a_quality_routed_model_is_no_start(learn: Train, train: Train) -> None:
    routed = train("routed", guard=True)
    with pytest.raises(KubefaceError, match="is a quality-routed model: task classes starts from one without a guard"):
        learn("classes", pretrained=str(routed.folder))


def test_what_cannot_be_fetched_has_a_fallback(
    learn: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.pth")
    with pytest.raises(KubefaceError, match=r"missing\.pth does not exist"):
        learn("classes", backbone="resnet50", pretrained=missing)
    found = learn("classes", backbone="resnet50", pretrained=missing, fallback="tiny")
    config = told(found, "model.json")
    said = f"starts from the published weights of tiny instead, as fallback says: {missing} does not exist"
    assert (config["backbone"], config["training"]["backbone"]) == ("tiny", "tiny")
    assert config["training"]["fallback"] == said
    assert f"finetune: {said}" in capsys.readouterr().out.splitlines()
    assert "fallback" not in learn("classes", "other", fallback="tiny").training


def test_all_processes_start_from_the_same_weights(learn: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "gather", lambda _, value: [value, "another's"])
    with pytest.raises(KubefaceError, match=r"the processes start from different weights, this one from .*tiny"):
        learn("attributes")


@TASKS
def test_a_real_backbone(learn: Train, task: str) -> None:
    found = learn(
        task, backbone="sface", degradation="none", head_epochs=3, epochs=1, strategy="partial", num_layers=2, lr=1e-4
    )
    assert found.result.val_accuracy is not None and found.result.val_accuracy > 0.7
