"""A network that trains in a tenth of a second, and trainings of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kubeface.finetune import model_folder
from kubeface.finetune import step as step_module
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.result import FinetuneResult
from kubeface.finetune.step import finetune
from kubeface.models.backbones import BACKBONES, Backbone
from kubeface.records.model import Preprocessing
from kubeface.runtime.options import read_options
from kubeface.tables.row_index import RowIndex
from kubeface.tables.table import Table
from tests.support.tables import rows_of, splitting, write_rows

# Rates at which the first epochs of attributes and classes already change what is predicted.
LEARNING: dict[str, Any] = {"head_epochs": 2, "epochs": 2, "head_lr": 0.01, "lr": 0.001}
# Stage 1 of one epoch and stage 2 of three, with three steps in each.
LONG: dict[str, Any] = {"epochs": 3, "head_epochs": 1, "lr": 3e-3, "patience": 0}
# Three people, twelve crops to train on, three to validate: three steps of batches of four.
QUICK: dict[str, Any] = {"epochs": 2, "head_epochs": 1, "batch_size": 4, "onnx": False}
# The backbone from the first step on, with a batch norm that learns nothing.
FULL: dict[str, Any] = {"strategy": "full", "lr": 3e-3}


class Tiny(nn.Sequential):
    """Two convolutions and a linear layer, each with batch norm, and dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 36, 16),
            nn.BatchNorm1d(16),
        )


def register_tiny(weights: Path) -> None:
    """Makes `tiny` a backbone whose published weights are in that file."""
    preprocessing = Preprocessing(size=56, color_order="rgb", mean=127.5, std=128.0)
    BACKBONES["tiny"] = Backbone("tiny", Tiny, preprocessing, 16, (str(weights),), "none")


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings."""
    for name in ("draw_history", "draw_augmentations"):
        patch.setattr(model_folder, name, lambda *_: None)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights of `tiny`; batch norm has the statistics of soft noise."""
    torch.manual_seed(0)
    network = Tiny().train()
    for _ in range(20):
        network(interpolate(torch.randn(16, 3, 8, 8), size=56, mode="bilinear"))
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tiny(tiny_file: Path) -> Iterator[dict[str, Tensor]]:
    """Registers the backbone `tiny`, draws nothing, uses one thread; gives its published weights."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", BACKBONES["sface"])
        register_tiny(tiny_file)
        patch.setattr(step_module, "cpu_limit", lambda: 1)  # two wait for each other on a busy machine
        without_figures(patch)
        yield safetensors.torch.load_file(tiny_file)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class ModelFolder:
    """What a training left."""

    folder: Path

    @property
    def weights(self) -> dict[str, Tensor]:
        return safetensors.torch.load_file(self.folder / "model.safetensors")

    @property
    def history(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "logs" / "history.json").read_text())
        return rows

    @property
    def timeless(self) -> list[dict[str, Any]]:
        """The history without the time that it took."""
        return [{key: value for key, value in row.items() if "second" not in key} for row in self.history]

    @property
    def training(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "model.json").read_text())["training"]
        return found

    def checkpoint(self, name: str, prefix: str = "backbone") -> dict[str, Tensor]:
        """What stands under a prefix in the one checkpoint whose name begins so."""
        (path,) = (self.folder / "checkpoints").glob(f"{name}*.safetensors")
        state = safetensors.torch.load_file(path)
        return {key.removeprefix(f"{prefix}."): state[key] for key in state if key.startswith(f"{prefix}.")}


@dataclass(frozen=True)
class Run(ModelFolder):
    """A training that is done: its folder, and what the step returned."""

    result: FinetuneResult


Train = Callable[..., Run]


def arguments(choices: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `finetune`: options over those of a quick training, and the others."""
    options = {name: value for name, value in choices.items() if name in FinetuneOptions.model_fields}
    usual = {"backbone": "tiny", "degradation": "noise:60", "device": "cpu"} | QUICK
    others = {name: value for name, value in choices.items() if name not in options}
    return {"options": read_options(FinetuneOptions, usual | options)} | others


def _training(folder: Path, aligned: Path, split: Path) -> Train:
    def action(out: str = "model", **choices: Any) -> Run:
        given = {"aligned": aligned, "split": split, "out": folder / out} | arguments(choices)
        return Run(given["out"], finetune(**given))

    return action


@pytest.fixture
def train(tiny: dict[str, Tensor], aligned_table: Path, split_table: Path, tmp_path: Path) -> Train:
    """Trains `tiny` for a moment: options and other arguments of `finetune` by name; `out` names the folder."""
    return _training(tmp_path, aligned_table, split_table)


@pytest.fixture(scope="module")
def train_once(
    tiny: dict[str, Tensor], aligned_table: Path, split_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Train:
    """Trains as `train`, the same once for all tests of a file, which leave the folder as it is."""
    train = _training(tmp_path_factory.mktemp("once"), aligned_table, split_table)
    done: dict[str, Run] = {}

    def action(**choices: Any) -> Run:
        key = repr(sorted(choices.items()))
        if key not in done:
            done[key] = train(f"{len(done)}", **choices)
        return done[key]

    return action


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are the same, byte for byte."""
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    """Two state dicts are the same but for rounding."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=tolerance, rtol=1e-3, msg=partial("{}: {}".format, name))


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are not the same, byte for byte."""
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def labelled(table: Path, out: Path) -> Path:
    """The table with labels: one of half of the images, one of one person and not known of every fifth image, one of
    none; the last three images have no label at all."""
    source = Table(table, "aligned")
    rows = rows_of(source)
    first = min(row["identity"] for row in rows)
    for number, row in enumerate(rows):
        glasses = "" if number % 5 == 0 else "1" if row["identity"] == first else "-1"
        groups = {"Smiling": str(number % 2), "Eyeglasses": glasses, "Left_Side": "0"}
        row["groups"] = json.dumps({} if number >= len(rows) - 3 else groups)
    return write_rows(out, "aligned", rows, source.manifest.settings)


@pytest.fixture(scope="session")
def pairs(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split with two validation images of each person, and two of a fourth who is not trained on."""
    parts = {"s1": "tttvv", "s3": "tttvv", "s5": "tttvv", "s2": "vv"}
    return splitting(aligned_table, tmp_path_factory.mktemp("pairs") / "split", parts)


def row_index_of(groups: list[int], labels: Sequence[int] | None = None) -> RowIndex:
    """An index of row groups of these sizes, two groups a shard, all of class 0 or of the classes given."""
    where = [(number // 2, number % 2, row) for number, size in enumerate(groups) for row in range(size)]
    numbers = np.array([(0, *place) for place in where], np.int32).reshape(-1, 4)
    if labels is not None:
        numbers[:, 0] = labels
    ids = pa.array([str(place) for place in where])
    return RowIndex([Path(f"shard-{number}") for number in range(len(groups))], ids, numbers)


@pytest.fixture(scope="session")
def tables(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Task, aligned and split table by task: whole people on one side for attributes, images of each person on all
    sides for classes."""
    folder = tmp_path_factory.mktemp("tasks")
    people = [f"s{number}" for number in range(1, 7)]
    sides = dict(zip(people, ("ttttt", "ttttt", "ttttt", "vvvvv", "vvvvv", "hhhhh"), strict=True))
    table = labelled(aligned_table, folder / "aligned")
    parts = {"attributes": sides, "classes": dict.fromkeys(people[:4], "tttvh")}
    return {
        task: {"task": task, "aligned": table, "split": splitting(aligned_table, folder / task, parts[task])}
        for task in parts
    }


@pytest.fixture(scope="module")
def learn_once(train_once: Train, tables: dict[str, dict[str, Any]]) -> Train:
    """As `train_once` for a task."""

    def action(task: str, **choices: Any) -> Run:
        return train_once(**tables[task] | LEARNING | choices)

    return action


@pytest.fixture
def learn(train: Train, tables: dict[str, dict[str, Any]]) -> Train:
    """Trains `tiny` for a task, as `train`."""

    def action(task: str, out: str = "model", **choices: Any) -> Run:
        return train(out, **tables[task] | LEARNING | choices)

    return action
