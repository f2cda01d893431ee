"""What finetune returns."""

from kubeface.records.model import TrainingRecord
from kubeface.records.record import StepResult


class FinetuneResult(StepResult):
    """Figures of a training, or of the promoted model that was handed on instead: images of training and validation in,
    images trained on out."""

    trained: int
    """1 where this run trained the model, 0 where it handed on the promoted one."""
    identities: int
    """People or classes trained on."""
    labels: int
    """Scores of the model: attributes or classes; 0 for recognition."""
    epochs: int
    """Epochs of all stages; 0 for a model that was handed on."""
    best_epoch: int
    """The epoch whose weights were kept."""
    val_loss: float | None
    """Loss over the validation images in that epoch."""
    val_accuracy: float | None
    """Accuracy over the validation images in that epoch, 0 to 1."""
    val_auc: float | None
    """AUC over the validation images in that epoch, 0 to 1: of verification, for attributes the mean over labels."""


def result_of_promoted(training: TrainingRecord) -> FinetuneResult:
    """The figures of a promoted model that was handed on."""
    return FinetuneResult(
        rows_in=training.images or 0,
        rows_out=training.images or 0,
        trained=0,
        identities=training.identities or 0,
        labels=len(training.labels),
        epochs=0,
        best_epoch=training.best_epoch or 0,
        val_loss=training.val_loss,
        val_accuracy=training.val_accuracy,
        val_auc=training.val_auc,
    )
