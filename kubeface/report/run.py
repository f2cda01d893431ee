"""The outputs of one run, read and checked."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from kubeface.metrics.figures import ThresholdRow
from kubeface.records.data import DataRecord, ShardStepsRecord, StepTotals, gathered_tables
from kubeface.records.evaluation import (
    Curves,
    Evaluation,
    RecognitionEvaluation,
    read_curves,
    read_evaluation,
)
from kubeface.records.findings import FindingsRecord
from kubeface.records.model import ModelRecord
from kubeface.records.passport import Passport
from kubeface.records.promotion import PromotionRecord
from kubeface.records.record import STEP_FILE, StepRecord
from kubeface.report.options import ReportOptions
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.folders import read_json
from kubeface.tables.table import Table

STEPS = ("gather", "audit", "split", "finetune", "scratch", "evaluate", "promote")
MOST_REJECTED = 12  # rejected images of a step that are listed


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
        metrics: JSON file with the figures of each step (metrics.gather …), as step.json has them: gather, audit,
            split, finetune, evaluate, promote; and scratch with scratch_model.
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

    @classmethod
    def of_tasks(cls, folders: Iterable[Path], scratch: Path | None = None) -> "RunOutputs":
        """The outputs as a pipeline's tasks leave them: each folder with its step.json, gather's with its tables.

        Args:
            folders: of gather, audit, split, finetune, evaluate and promote.
            scratch: model folder of the small network from scratch, if one was trained.
        """
        gathered, audited, split, model, evaluation, promotion = folders
        aligned, filtered = gathered_tables(gathered)
        of_steps = zip(STEPS, (gathered, audited, split, model, scratch, evaluation, promotion), strict=True)
        return cls(
            gathered=gathered,
            aligned=aligned,
            filtered=filtered,
            audited=audited,
            split=split,
            model=model,
            evaluation=evaluation,
            promotion=promotion,
            metrics={step: folder / STEP_FILE for step, folder in of_steps if folder},
            scratch_model=scratch,
        )


class Epoch(BaseModel):
    """One epoch of a training, as finetune logs it; what was not measured is None."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    epoch: int
    stage: int
    seconds: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    train_auc: float | None = None
    val_auc: float | None = None

    def figure(self, part: str, name: str) -> float | None:
        """A figure (loss, accuracy, auc) of training or validation."""
        value: float | None = getattr(self, f"{part}_{name}")
        return value


_EPOCHS: TypeAdapter[list[Epoch]] = TypeAdapter(list[Epoch])


@dataclass(frozen=True)
class Training:
    """One training: its model.json, and its epochs, of which there are none for a model of an earlier run."""

    model: ModelRecord
    history: Sequence[Epoch]

    def seconds(self, last_stage: int = 2) -> float:
        """Seconds of the epochs up to a stage; in stage 1 only the head is trained."""
        return sum(epoch.seconds for epoch in self.history if epoch.stage <= last_stage)


@dataclass(frozen=True)
class RejectedImage:
    """An image that a step left out."""

    step: str
    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Run:
    """One run: its tables and records.

    `rejected` are the first images that each of ingest, align and filter left out. `roc` is empty but for recognition,
    and
    `thresholds` where evaluate wrote none (both by set and model); `steps` are in the order of the pipeline.
    """

    pipeline: str
    seed: int
    data: DataRecord
    rejected: Sequence[RejectedImage]
    findings: FindingsRecord
    aligned: Table
    filtered: Table
    split: Table
    training: Training
    scratch: Training | None
    evaluation_folder: Path
    evaluation: Evaluation
    roc: Curves
    thresholds: dict[str, dict[str, list[ThresholdRow]]]
    promotion: PromotionRecord
    passport: Passport | None
    steps: dict[str, StepTotals]

    def check(self) -> None:
        """Raises KubefaceError where a model or the evaluation was made from another split, or for another task."""
        models = [training.model for training in (self.training, self.scratch) if training]
        # A promoted model that was handed on was trained on the split of an earlier run.
        for made in (*(model.training for model in models if model.trained), self.evaluation):
            require(
                made.split == self.split.sha256,
                f"{made.producer} worked on another split than {self.split.folder}: give the outputs of one run",
            )
        for model in models:
            require(
                model.task == self.evaluation.task,
                f"a model is for task {model.task}, its evaluation for {self.evaluation.task}: give the outputs of one "
                "run",
            )

    @property
    def model(self) -> ModelRecord:
        return self.training.model

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


def read_run(outputs: RunOutputs, options: ReportOptions) -> Run:
    """Reads and checks the outputs of a run.

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, or the folders are of several runs.
    """
    require(
        (outputs.scratch_model is None) == ("scratch" not in outputs.metrics),
        "scratch_model and the metrics of scratch go together: give both or neither",
    )
    missing = [step for step in STEPS if step != "scratch" and step not in outputs.metrics]
    require(not missing, f"the metrics of {', '.join(missing)} are missing: give the JSON file of each step")
    evaluation = read_evaluation(outputs.evaluation / "evaluation.json")
    passport = outputs.promotion / "passport.json"
    run = Run(
        pipeline=options.pipeline,
        seed=options.seed,
        data=DataRecord.read(outputs.gathered / "data.json"),
        rejected=_read_rejected(outputs.gathered / "rejected.csv"),
        findings=FindingsRecord.read(outputs.audited / "data.json"),
        aligned=Table(outputs.aligned, "aligned"),
        filtered=Table(outputs.filtered, "filter"),
        split=Table(outputs.split, "split"),
        training=_read_training(outputs.model),
        scratch=_read_training(outputs.scratch_model) if outputs.scratch_model else None,
        evaluation_folder=outputs.evaluation,
        evaluation=evaluation,
        roc=read_curves(outputs.evaluation / "roc.json") if isinstance(evaluation, RecognitionEvaluation) else {},
        thresholds=_read_thresholds(outputs.evaluation / "thresholds.csv"),
        promotion=PromotionRecord.read(outputs.promotion / "promotion.json"),
        passport=Passport.read(passport) if passport.is_file() else None,
        steps=dict(ShardStepsRecord.read(outputs.gathered / "steps.json"))
        | {step: _read_totals(outputs.metrics[step]) for step in STEPS if step in outputs.metrics},
    )
    run.check()
    return run


def _read_totals(path: Path) -> StepTotals:
    """Rows and seconds in the figures of a step, which are more."""
    record = StepRecord.read(path)
    return StepTotals(rows_in=record.rows_in, rows_out=record.rows_out, seconds=record.seconds)


def _read_training(folder: Path) -> Training:
    """Reads model.json and the epochs of a model folder; a model that the run did not train may have none."""
    path = folder / "logs" / "history.json"
    model = ModelRecord.read(folder / "model.json")
    try:
        return Training(model, _EPOCHS.validate_python(read_json(path)) if model.trained or path.is_file() else [])
    except ValidationError as error:
        raise KubefaceError(
            f"{path} is not what this release reads ({error.errors()[0]['msg']}): train again"
        ) from None


def _read_rejected(path: Path) -> list[RejectedImage]:
    require(path.is_file(), f"{path} is missing: was the step before it finished?")
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        by_step = groupby(csv.DictReader(file), key=itemgetter("step"))
        return [RejectedImage(**row) for _, rows in by_step for row in islice(rows, MOST_REJECTED)]


def _read_thresholds(path: Path) -> dict[str, dict[str, list[ThresholdRow]]]:
    """A threshold table by set and model; empty where the file is missing."""
    table: dict[str, dict[str, list[ThresholdRow]]] = {}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                figures = ThresholdRow.model_validate({name: row[name] for name in ThresholdRow.model_fields})
                table.setdefault(row["set"], {}).setdefault(row["model"], []).append(figures)
    return table
