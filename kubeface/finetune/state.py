"""How far a training has come, which its `last` checkpoint keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kubeface.finetune.logs import Row


@dataclass
class Validation:
    """Figures of the validation images after an epoch; None where there are no such images."""

    epoch: int = 0
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_auc: float | None = None


@dataclass
class TrainingState:
    """In which stage a training is, after how many of its epochs, after how many steps of the next.

    Args:
        stage: 1 trains the head alone, 2 the backbone too.
        epoch: epochs of the stage that are done.
        step: steps of the unfinished epoch that are done.
        loss, correct, seen: sums over the images of the unfinished epoch.
        seconds: that its steps took.
        without_gain: epochs since the best one.
        best: the best epoch so far.
        history: a row for each epoch.
        accumulate: parts that a batch is computed in.
        scaler: state of the gradient scaler.
    """

    stage: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0
    seen: int = 0
    seconds: float = 0.0
    without_gain: int = 0
    best: Validation = field(default_factory=Validation)
    history: list[Row] = field(default_factory=list)
    accumulate: int = 1
    scaler: dict[str, Any] = field(default_factory=dict)

    def next_stage(self, stage: int) -> "TrainingState":
        """The state at the beginning of another stage."""
        return TrainingState(stage, best=self.best, history=self.history, accumulate=self.accumulate)

    def end_epoch(self, row: Row, better: bool) -> None:
        """Counts an epoch and forgets its sums."""
        self.history.append(row)
        self.epoch += 1
        self.step, self.loss, self.correct, self.seen, self.seconds = 0, 0.0, 0, 0, 0.0
        self.without_gain = 0 if better else self.without_gain + 1

    def to_json(self) -> dict[str, Any]:
        """The state as a checkpoint's JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainingState":
        """The state out of a checkpoint."""
        return cls(**{**values, "best": Validation(**values["best"])})
