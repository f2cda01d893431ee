"""What finetune returns."""

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
