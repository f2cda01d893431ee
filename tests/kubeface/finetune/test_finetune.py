"""Fine-tuning on real faces: three people, twelve crops to train on, three to validate."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from kubeface.faces.images import decode_rgb
from kubeface.finetune import model_folder
from kubeface.finetune.figures import draw_augmentations, draw_history
from kubeface.finetune.gradients import Gradients
from kubeface.finetune.state import Validation
from kubeface.finetune.validation import Validator
from kubeface.models.model import load_model, load_pretrained
from kubeface.storage.folders import sha256_file
from kubeface.tables.table import Table
from tests.support.tables import splitting

from .conftest import FULL, Tiny, Train, changed, close, same

SFACE: dict[str, Any] = {"backbone": "sface", "strategy": "full", "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def uneven(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of three people with unequal numbers of images, and of a fourth with one image."""
    folder = tmp_path_factory.mktemp("uneven")
    return splitting(aligned_table, folder / "split", {"s1": "ttttv", "s3": "ttv", "s5": "tttv", "s2": "t"})


# --- what it leaves -------------------------------------------------------------------------------------------------


def test_what_a_training_leaves(train: Train, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole folder; people in the order of the classes; the figures of the best epoch."""
    monkeypatch.setattr(model_folder, "draw_history", draw_history)
    monkeypatch.setattr(model_folder, "draw_augmentations", draw_augmentations)
    run = train(split=pairs, onnx=True, keep_checkpoints=0, epochs=3)
    names = sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file())
    (board,) = [name for name in names if "tfevents" in name]
    assert board.startswith("logs/tensorboard/")
    epochs = [f"epoch_{row['epoch']:02d}_val_acc_{row['val_accuracy']:.4f}" for row in run.history]
    assert {*names} - {board} == {
        "model.safetensors", "model.onnx", "start.onnx", "mtcnn.zip", "model.json", "identities.json",
        *(f"checkpoints/{name}.safetensors" for name in ("best", "last", *epochs)), "logs/history.csv",
        "logs/history.json", "figures/augmentation.png", "figures/loss.png", "figures/accuracy.png",
        "figures/verification.png", "figures/learning_rate.png",
    }  # fmt: skip
    for path in (run.folder / "figures").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
    assert [path.name for path in run.folder.parent.iterdir()] == ["model"]
    assert json.loads((run.folder / "identities.json").read_text()) == ["s1", "s3", "s5"]
    assert run.checkpoint("last", "head")["weight"].shape == (3, 16)
    best = min(run.history, key=lambda row: row["val_loss"])
    measured = {name: best[name] for name in ("val_loss", "val_accuracy", "val_auc")}
    counts = {"rows_in": 9 + 8, "rows_out": 9, "trained": 1, "identities": 3, "labels": 0, "epochs": 4}
    assert run.result.model_dump() == counts | measured | {"best_epoch": best["epoch"]}
    assert run.training.items() >= (measured | {"best_epoch": best["epoch"]}).items()


def test_model_json_tells_how_it_was_trained(
    train: Train, aligned_table: Path, split_table: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 0.002\nepochs: 5\n")
    run = train(recipe=str(tmp_path / "mine.yaml"), epochs=1, seed=3, degradation="blur:2")
    config = json.loads((run.folder / "model.json").read_text())
    training = config["training"]
    told = {"lr": 0.002, "epochs": 1, "strategy": "two_stage", "batch_size": 4, "degradation": "blur:2", "seed": 3}
    assert {key: training[key] for key in told} == told
    assert (training["backbone"], training["pretrained"]) == ("tiny", "")
    assert training["recipe"] == str(tmp_path / "mine.yaml")
    assert training["aligned"] == Table(aligned_table, "aligned").sha256
    assert training["split"] == Table(split_table, "split").sha256
    assert (training["identities"], training["images"], training["wise_ft_alpha"]) == (3, 12, 1.0)
    assert "onnx" not in training and not list(run.folder.glob("*.onnx"))
    assert set(training["versions"]) == {"python", "torch", "torchvision", "numpy"}
    assert config["weights_sha256"] == sha256_file(run.folder / "model.safetensors")
    assert load_model(run.folder).start == config["start"]


@pytest.mark.parametrize(("keep", "epochs"), [(0, [1, 2, 3, 4]), (1, [4]), (3, [2, 3, 4])])
def test_checkpoints_of_epochs_are_kept(keep: int, epochs: list[int], train: Train) -> None:
    run = train(epochs=3, keep_checkpoints=keep)
    paths = sorted((run.folder / "checkpoints").glob("epoch_*"))
    assert [int(path.name[6:8]) for path in paths] == epochs
    for path, epoch in zip(paths, epochs, strict=True):
        row = run.history[epoch - 1]
        with safetensors.safe_open(path, "pt") as file:
            assert json.loads(file.metadata()["kubeface"]) == {"epoch": epoch, "val_accuracy": row["val_accuracy"]}
    best = run.result.best_epoch
    if best in epochs:
        for prefix in ("backbone", "head"):
            assert same(run.checkpoint("best", prefix), run.checkpoint(f"epoch_{best:02d}", prefix))
    assert same(run.checkpoint("last"), run.checkpoint("epoch_04"))
    assert same(run.weights, run.checkpoint("best"))


# --- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{}, {"dropout": True, "balance": "sampler", "ema": 0.9}], ids=["usual", "much"])
def test_the_seed_decides_and_nothing_else(choices: dict[str, Any], train: Train) -> None:
    """Two processes that read and augment give what none give."""
    one, again, other = (train(name, seed=seed, **choices) for name, seed in (("one", 1), ("again", 1), ("other", 2)))
    reading = train("reading", seed=1, workers=2, **choices)
    for run in (again, reading):
        for name in ("model.safetensors", "model.json", "identities.json"):
            assert sha256_file(run.folder / name) == sha256_file(one.folder / name), name
        for prefix in ("backbone", "head", "optimizer", "average"):
            assert same(run.checkpoint("last", prefix), one.checkpoint("last", prefix))
        assert run.timeless == one.timeless
    assert changed(one.checkpoint("last"), other.checkpoint("last"))


def test_sface_trains_alike_twice_and_nearly_so_in_mixed_precision(train: Train) -> None:
    one, again, mixed = train("one", **SFACE), train("again", **SFACE, workers=1), train("mixed", **SFACE, amp="bf16")
    for name in ("model.safetensors", "model.json"):
        assert sha256_file(one.folder / name) == sha256_file(again.folder / name), name
    start = load_pretrained("sface").network.state_dict()
    moved = changed(one.checkpoint("last"), dict(start))
    assert len(moved) > 50
    assert not [name for name in moved if "running_" in name or "num_batches" in name]
    assert mixed.history[0]["train_loss"] != one.history[0]["train_loss"]
    assert mixed.history[0]["train_loss"] == pytest.approx(one.history[0]["train_loss"], rel=0.1)
    assert mixed.weights["fc.weight"].dtype == torch.float32


# --- choices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"distill": 0.0},
        {"head": "softmax"},
        {"head": "cosface", "margin": 0.2, "scale": 30.0},
        {"head": "combined", "margins": [1.0, 0.2, 0.1]},
        {"sub_centers": 2},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"weight_decay": 0.5},
        {"clip_norm": 0.1},
        {"label_smoothing": 0.2},
        {"balance": "sampler"},
        {"balance": "loss"},
        {"dropout": True},
        {"freeze_batch_norm": False},
        {"ema": 0.5},
        {"head_factor": 10.0},
        {"schedule": "constant"},
        {"warmup_epochs": 1.0},
        {"amp": "bf16"},
        {"amp": "fp16", "epochs": 12},  # it takes some steps to find a scale at which no gradient overflows
        {"jitter": 0.0, "flip": 0.0},
        {"low_resolution": 1.0},
        {"cutout": 1.0},
        {"degrade": 0.0},
        {"degradation": "none"},
    ],
    ids=lambda choice: "-".join(f"{key}={value}" for key, value in choice.items()),
)
def test_choices_train_and_make_a_difference(
    choice: dict[str, Any], train: Train, train_once: Train, uneven: Path, tiny: dict[str, Tensor]
) -> None:
    found, usual = train(split=uneven, **FULL | choice), train_once(split=uneven, **FULL)
    assert all(torch.isfinite(value).all() for value in found.weights.values())
    assert found.result.rows_out == 10 and all(math.isfinite(row["train_loss"]) for row in found.history)
    assert all(value.dtype == tiny[name].dtype for name, value in found.weights.items())
    last = found.checkpoint("last")
    assert {"0.weight", "3.weight", "8.weight"} <= changed(last, tiny)
    assert {"0.weight", "3.weight", "8.weight"} <= changed(last, usual.checkpoint("last"))
    assert {key: found.training[key] for key in choice} == choice


def test_parts_of_a_batch_add_up(train: Train) -> None:
    """Batches of five in two parts or five give what they give at once; with clipping, weights and smoothing."""
    much = {"clip_norm": 1.0, "balance": "loss", "label_smoothing": 0.1, "ema": 0.5, "batch_size": 5, "epochs": 3}
    whole, *parts = (train(f"{count}", **FULL | much, accumulate=count) for count in (1, 2, 5, 64))
    for run in parts:
        close(run.checkpoint("last"), whole.checkpoint("last"))
        for ours, theirs in zip(run.history, whole.history, strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
    assert same(parts[1].weights, parts[2].weights)


def test_batch_norm_learns_of_no_part_with_one_image(train: Train, tiny: dict[str, Tensor]) -> None:
    """Eleven images to a batch leave one over, which has no statistics: it is not trained on. No part is so small."""
    run = train(**FULL | {"freeze_batch_norm": False, "batch_size": 11, "epochs": 1, "accumulate": 64})
    statistics = {name: value for name, value in run.checkpoint("last").items() if "running_" in name}
    assert len(statistics) == 6
    assert all(torch.isfinite(value).all() and not torch.equal(value, tiny[n]) for n, value in statistics.items())
    # Eleven images make five parts of two or three.
    assert run.weights["1.num_batches_tracked"] == tiny["1.num_batches_tracked"] + 5


def test_clipping_bounds_the_gradient(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def spied(self: torch.optim.SGD, *given: Any, **named: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None)))
        return step(self, *given, **named)

    monkeypatch.setattr(torch.optim.SGD, "step", spied)
    train("free", **FULL | {"lr": 1e-4}, optimizer="sgd")
    free = list(norms)
    norms.clear()
    train("clipped", **FULL | {"lr": 1e-4}, optimizer="sgd", clip_norm=0.5)
    assert len(norms) == len(free) == 6
    assert min(free) > 1
    assert norms == pytest.approx([0.5] * 6, rel=1e-3)


def test_the_sampler_draws_all_people_equally_often(
    train: Train, aligned_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Counter[int]] = []
    gradients = Gradients.compute

    def spied(self: Gradients, batch: list[Tensor], *given: Any) -> Any:
        seen.append(Counter(batch[-1].tolist()))
        return gradients(self, batch, *given)

    monkeypatch.setattr(Gradients, "compute", spied)
    parts = splitting(aligned_table, tmp_path / "split", {"s1": "ttttt", "s3": "t", "s5": "ttt"})
    train(**FULL | {"batch_size": 16, "epochs": 2}, split=parts, balance="sampler")
    assert seen == [Counter({0: 3, 1: 3, 2: 3})] * 2


def test_the_moving_average_is_what_is_kept(train: Train) -> None:
    """One step an epoch: the checkpoints of a training without average are the weights that it is made of."""
    steps = FULL | {"batch_size": 16, "epochs": 4, "keep_checkpoints": 0, "patience": 0}
    plain, averaged = train("plain", **steps), train("averaged", **steps, ema=0.75)
    average: dict[str, Tensor] = {}
    for epoch in range(1, 5):
        now = plain.checkpoint(f"epoch_0{epoch}")
        for name, value in now.items():
            if value.is_floating_point():
                average[name] = 0.75 * average[name] + 0.25 * value if name in average else value
        found = averaged.checkpoint(f"epoch_0{epoch}")
        for name, value in average.items():
            torch.testing.assert_close(found[name], value)
    assert same(averaged.checkpoint("last", "network"), plain.checkpoint("last"))  # the training itself is the same
    assert same(averaged.weights, averaged.checkpoint("best"))
    assert changed(averaged.weights, plain.weights)


def test_distillation_holds_the_model_to_its_start(train: Train, aligned_table: Path) -> None:
    """On clean crops that stay as they are the starting model is its own teacher: under its weight less moves."""

    def moved(distill: float) -> float:
        still = {"degradation": "none", "jitter": 0.0, "flip": 0.0, "epochs": 10, "patience": 0}
        run = train(f"{distill:g}", **FULL | still, distill=distill)
        model, teacher = load_pretrained("tiny"), load_pretrained("tiny")
        model.network.load_state_dict(run.checkpoint("last"))
        rows = next(Table(aligned_table, "aligned").row_groups(["image"]))
        crops = np.stack([decode_rgb(row["image"]) for row in rows])
        return float(np.mean(1 - np.sum(model.embed(crops) * teacher.embed(crops), axis=1)))

    free, held, tied = moved(0.0), moved(1000.0), moved(30000.0)
    assert free > 1.5 * held > 1.5 * tied > 0


def test_training_learns(train: Train) -> None:
    """Twenty epochs on twelve images: the loss falls and nearly all of them are known."""
    learning = {"epochs": 20, "distill": 0.0, "degradation": "none", "scale": 16.0, "patience": 0, "lr": 1e-2}
    rows = train(**FULL | learning).history
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert rows[-1]["train_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("amp", "precision"),
    [("auto", torch.float32), ("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision(amp: str, precision: torch.dtype, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in validation alike; the weights stay in full precision."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward: Callable[[Tiny, Tensor], Tensor] = Tiny.forward

    def spied(self: Tiny, images: Tensor) -> Tensor:
        seen[torch.is_grad_enabled()].add(self[0](images).dtype)
        return forward(self, images)

    monkeypatch.setattr(Tiny, "forward", spied)
    run = train(**FULL, amp=amp, distill=0.0)
    assert seen == {True: {precision}, False: {precision}}
    assert {value.dtype for value in run.weights.values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_trains_alike(train: Train) -> None:
    choices = FULL | {"ema": 0.5, "epochs": 1}
    usual, compiled = train("usual", **choices), train("compiled", **choices, onnx=True, compile=True)
    close(compiled.checkpoint("last"), usual.checkpoint("last"), 1e-3)
    assert (compiled.folder / "model.onnx").is_file()


# --- the best epoch -------------------------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float], aucs: list[float] | None = None) -> None:
    """Validation losses and AUCs as given, one an epoch."""
    left = iter(zip(losses, aucs or [0.5] * len(losses), strict=True))

    def validate(self: Validator, _: Any) -> Validation:
        loss, auc = next(left)
        return Validation(0, loss, 0.5, auc)

    monkeypatch.setattr(Validator, "validate", validate)


@pytest.mark.parametrize(
    ("monitor", "losses", "aucs", "best"),
    [
        ("val_loss", [5.0, 3.0, 4.0], [0.1, 0.2, 0.3], 2),
        ("val_auc", [5.0, 3.0, 4.0], [0.1, 0.2, 0.3], 3),
        ("val_auc", [5.0, 3.0, 4.0], [0.9, 0.2, 0.3], 1),
        ("val_loss", [3.0, 3.0, 3.0], [0.1, 0.2, 0.3], 1),
    ],
)
def test_the_best_epoch(
    monitor: str, losses: list[float], aucs: list[float], best: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, losses, aucs)
    run = train(epochs=2, monitor=monitor, keep_checkpoints=0)
    assert (run.result.best_epoch, run.result.val_loss, run.result.epochs) == (best, losses[best - 1], 3)
    assert same(run.weights, run.checkpoint(f"epoch_0{best}"))
    assert same(run.checkpoint("best", "head"), run.checkpoint(f"epoch_0{best}", "head"))


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 5), (0, 6)])
def test_patience_stops_early(
    train: Train, monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1 is never cut short. Of the last stage's four epochs the first is the best: one more is run with 1 …"""
    scripted(monkeypatch, [4.0, 5.0, 3.0, 4.0, 3.5, 3.2])
    run = train(head_epochs=2, epochs=4, patience=patience)
    assert (run.result.epochs, run.result.best_epoch) == (epochs, 3)
    assert len(run.history) == epochs
    stopped = [line for line in capsys.readouterr().out.splitlines() if "stopped early" in line]
    said = f"finetune: stopped early, val_loss has not improved for {patience} epochs"
    assert stopped == ([said] if patience else [])


def test_without_validation_images_the_last_epoch_is_the_best(
    train: Train, aligned_table: Path, tmp_path: Path
) -> None:
    divided = splitting(aligned_table, tmp_path / "split", {"s1": "ttt", "s3": "ttt"})
    run = train(split=divided, patience=1, keep_checkpoints=0)
    assert (run.result.best_epoch, run.result.rows_in, run.result.rows_out) == (3, 6, 6)
    assert all(getattr(run.result, name) is None for name in ("val_loss", "val_accuracy", "val_auc"))
    assert same(run.checkpoint("best"), run.checkpoint("last"))
    assert (run.folder / "checkpoints" / "epoch_01.safetensors").is_file()


@pytest.mark.parametrize("monitor", ["val_auc", "val_loss"])
def test_people_who_are_not_trained_on_are_verified(
    train: Train, aligned_table: Path, tmp_path: Path, monitor: str
) -> None:
    """Without a class they have no loss; the AUC is theirs, and may decide which epoch is the best."""
    divided = splitting(aligned_table, tmp_path / "split", {"s1": "ttt", "s3": "ttt", "s2": "vv", "s4": "vv"})
    run = train(split=divided, monitor=monitor, epochs=3, lr=3e-3)
    for row in run.history:
        assert row["val_loss"] is None and row["val_accuracy"] is None
        assert 0 <= row["val_auc"] <= 1
    assert run.result.val_auc == max(row["val_auc"] for row in run.history)
    assert json.loads((run.folder / "identities.json").read_text()) == ["s1", "s3"]


# --- going on -------------------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_model_folder(train: Train) -> None:
    """Another training, that starts where one has ended."""
    first = train("first", **FULL)
    second = train("second", strategy="head_only", pretrained=str(first.folder))
    assert same(second.weights, first.weights)
    assert second.training["pretrained"] == str(first.folder)
    assert second.training["start_sha256"] != first.training["start_sha256"]


def test_the_output_folder_may_be_there_and_empty(train: Train, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert train().result.trained == 1
