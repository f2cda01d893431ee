"""How far a training has come, which its `last` checkpoint keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass
class Validation:
    """Figures of the validation images after an epoch; None where there are no such images."""

    epoch: int = 0
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_auc: float | None = None


@dataclass(frozen=True)
class EpochFigures:
    """What was measured in an epoch; a row of history.csv. `learning_rate` is the backbone's, 0 where it is frozen."""

    epoch: int
    stage: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_auc: float | None
    learning_rate: float
    head_learning_rate: float
    images_per_second: float
    seconds: float

    def measured(self) -> Mapping[str, float]:
        """The figures by name, without those that were not measured."""
        values = ((name, value) for name, value in asdict(self).items() if name not in ("epoch", "stage"))
        return {name: float(value) for name, value in values if value is not None}

    def __str__(self) -> str:
        """The epoch in one line."""
        told = f"loss {self.train_loss:.4f} accuracy {self.train_accuracy:.4f}"
        if self.val_loss is not None:
            told += f", validation loss {self.val_loss:.4f} accuracy {self.val_accuracy:.4f}"
        told += "" if self.val_auc is None else f" AUC {self.val_auc:.4f}"
        rates = f"rate {self.learning_rate:.2e} head {self.head_learning_rate:.2e}"
        return f"{told}, {rates}, {self.images_per_second:.1f} images/s"


@dataclass
class TrainingState:
    """In which stage a training is, after how many of its epochs, after how many steps of the next.

    Args:
        stage: 1 trains the head alone, 2 the backbone too.
        loss, correct, seen: sums over the images of the unfinished epoch.
        seconds: that its steps took.
        without_gain: epochs since the best one.
        history: of every epoch, over all stages.
        accumulate: parts that a batch is computed in.
    """

    stage: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    without_gain: int = 0
    best: Validation = field(default_factory=Validation)
    history: list[EpochFigures] = field(default_factory=list)
    accumulate: int = 1
    scaler: dict[str, int | float] = field(default_factory=dict)

    def next_stage(self, stage: int) -> "TrainingState":
        """The state at the beginning of another stage."""
        return TrainingState(stage, best=self.best, history=self.history, accumulate=self.accumulate)

    def end_epoch(self, figures: EpochFigures, better: bool) -> None:
        """Counts an epoch and forgets its sums."""
        self.history.append(figures)
        self.epoch += 1
        self.step, self.loss, self.correct, self.seen, self.seconds = 0, 0.0, 0.0, 0, 0.0
        self.without_gain = 0 if better else self.without_gain + 1
