"""The outputs of one run, read and checked."""

import csv
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from kubeface.records.promotion import PromotionRecord
from kubeface.records.summary import StepFigures
from kubeface.records.tasks import task_of
from kubeface.runtime.errors import require
from kubeface.storage.folders import read_json
from kubeface.tables.table import Table

METRICS = ("rows_in", "rows_out", "seconds")


@dataclass(frozen=True, kw_only=True)
class RunOutputs:
    """Where the outputs of a run's steps are.

    Args:
        gathered: Folder of gather, with data.json, steps.json and rejected.csv.
        aligned: Aligned table.
        filtered: Filter table.
        audited: Audit table, with data.json beside it.
        split: Split table.
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        promotion: Folder of promote.
        metrics: JSON file with the result of each step: gather, audit, split, finetune, evaluate, promote; and scratch
            with scratch_model.
        scratch_model: Model folder of the small network that was trained from scratch beside it, if one was.
    """

    gathered: Path
    aligned: Path
    filtered: Path
    audited: Path
    split: Path
    model: Path
    evaluation: Path
    promotion: Path
    metrics: dict[str, Path]
    scratch_model: Path | None = None


@dataclass(frozen=True)
class Training:
    """One training: its model.json, its epochs, and the seconds that the epochs took."""

    model: dict[str, Any]
    history: list[dict[str, Any]]

    def seconds(self, last_stage: int = 2) -> float:
        """Seconds of the epochs up to a stage; of 1, while the head was trained alone."""
        return float(sum(row["seconds"] for row in self.history if row["stage"] <= last_stage))


@dataclass(frozen=True)
class Run:
    """One run: its tables, and what its JSON files hold.

    `data` is what gather and `audit` what audit says of the images, `rejected` the first images that each step left
    out (step, source, reason, detail). `thresholds` are the rows of evaluate's threshold table (set, model, threshold,
    fmr, fnmr, accuracy) and `passport` is what promote says of the run; both are empty where the step left none.
    `scratch` is the training of the small network beside the fine-tuned one, where there was one.
    `steps` are rows and seconds by step, in the order of the pipeline.
    """

    pipeline: str
    seed: int
    data: dict[str, Any]
    rejected: list[dict[str, str]]
    audit: dict[str, Any]
    aligned: Table
    filtered: Table
    split: Table
    training: Training
    scratch: Training | None
    evaluation_folder: Path
    evaluation: dict[str, Any]
    roc: dict[str, Any]
    thresholds: list[dict[str, str]]
    promotion: PromotionRecord
    passport: dict[str, Any]
    steps: dict[str, StepFigures]

    def check(self) -> None:
        """Raises KubefaceError where a model or the evaluation were made from another split, or for another task."""
        models = [training.model for training in (self.training, self.scratch) if training]
        # A promoted model that was handed on was trained on the split of an earlier run.
        trained = models if self.promotion.trained else []
        for made in (*(model["training"] for model in trained), self.evaluation):
            require(
                made["split"] == self.split.sha256,
                f"{made['producer']} worked on another split than {self.split.folder}: give the outputs of one run",
            )
        for model in models:
            require(
                task_of(model) == self.task,
                f"a model is for task {task_of(model)}, its evaluation for {self.task}: give the outputs of one run",
            )

    @property
    def model(self) -> dict[str, Any]:
        """model.json of the fine-tuned model."""
        return self.training.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """The epochs of the fine-tuned model."""
        return self.training.history

    @cached_property
    def task(self) -> str:
        """The task that was measured."""
        return task_of(self.evaluation)

    @cached_property
    def people(self) -> dict[str, Counter[str]]:
        """Images of each identity by split (train, val, heldout, excluded)."""
        people: dict[str, Counter[str]] = {}
        for rows in self.split.row_groups(["identity", "split"]):
            for row in rows:
                people.setdefault(row["identity"], Counter())[row["split"]] += 1
        return people

    @cached_property
    def excluded(self) -> dict[str, int]:
        """Images that the split left out, by reason."""
        counts: Counter[str] = Counter()
        for rows in self.split.row_groups(["split", "reason"]):
            counts.update(row["reason"] for row in rows if row["split"] == "excluded")
        return dict(sorted(counts.items()))

    def people_in(self, part: str) -> int:
        """Number of identities with an image in a part of the split."""
        return sum(part in images for images in self.people.values())


def read_object(path: Path, fields: tuple[str, ...]) -> dict[str, Any]:
    """Reads a JSON object that must have the fields.

    Raises:
        KubefaceError: the file is missing, is not JSON, or lacks a field, which is named.
    """
    value = read_json(path)
    require(isinstance(value, dict), f"{path} holds no JSON object: run the step that writes it again")
    missing = [name for name in fields if name not in value]
    require(not missing, f"{path} lacks {', '.join(missing)}: run the step that writes it again")
    return dict(value)


def read_training(folder: Path, fields: tuple[str, ...], trained: bool = True) -> Training:
    """Reads model.json and the epochs of a model folder; a model that the run did not train may have no epochs.

    Raises:
        KubefaceError: a file is missing, is not JSON, or lacks a field.
    """
    history = folder / "logs" / "history.json"
    config = read_object(folder / "model.json", fields)
    return Training(config, read_json(history) if trained or history.is_file() else [])


def read_rejected(path: Path, most: int) -> list[dict[str, str]]:
    """The first `most` images that each of ingest, align and filter left out: step, source, reason, detail.

    Raises:
        KubefaceError: the file is missing.
    """
    require(path.is_file(), f"{path} is missing: was the step before it finished?")
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        by_step = groupby(csv.DictReader(file), key=itemgetter("step"))
        return [row for _, rows in by_step for row in islice(rows, most)]


def read_thresholds(path: Path) -> list[dict[str, str]]:
    """The rows of a threshold table, none where the file is missing."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_passport(path: Path) -> dict[str, Any]:
    """A run's passport, empty where the file is missing.

    Raises:
        KubefaceError: the file holds no JSON object.
    """
    return read_object(path, ()) if path.is_file() else {}


def read_metrics(path: Path) -> StepFigures:
    """Rows and seconds of a step.

    Raises:
        KubefaceError: the file is missing, is not JSON, or lacks one of them.
    """
    return step_figures(read_object(path, METRICS))


def step_figures(result: dict[str, Any]) -> StepFigures:
    """Rows and seconds in the result of a step."""
    return StepFigures(**{name: result[name] for name in METRICS})
