"""The gate's rule: what a model must hold to, to be promoted."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.runtime.options import Options, Share, ShareBelowOne

# The figures of a task that can be asked to gain; the first is what held-out sets beside the target are judged by.
METRICS = {
    RECOGNITION: ("auc", "tar", "accuracy"),
    ATTRIBUTES: ("auc", "average_precision", "f1", "accuracy", "balanced_accuracy"),
    CLASSES: ("accuracy", "macro_f1", "balanced_accuracy"),
}


class Gate(Options):
    """The rule that a model must hold to, to be promoted; every bound is that of an interval."""

    target: str = "heldout"
    """Set that must get better, as evaluation.json names it."""
    metrics: str = "auc tar"
    """Figures that must gain on the target, divided by spaces."""
    min_gain: ShareBelowOne = 0.0
    """The gain's lower bound on the target must lie above this."""
    max_loss: Share = 0.01
    """Largest loss on other held-out people or images, as a share."""
    max_loss_lfw: Share = 0.01
    """Largest loss of accuracy on LFW and .bin sets, as a share."""
    max_loss_group: Share = 0.1
    """Largest rise of a group's false non-match rate, as a share."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence of the intervals."""
    over_champion: Literal["better", "not_worse", "ignore"] = "better"
    """What the model must be, compared with the promoted one."""


class _TaskGate(Gate):
    """The rule of one task, which knows the task's figures."""

    task: ClassVar[str]

    @field_validator("metrics")
    @classmethod
    def _are_of_the_task(cls, metrics: str) -> str:
        known = METRICS[cls.task]
        if not metrics.split() or not set(metrics.split()) <= set(known):
            raise ValueError(f"name some of {', '.join(known)}, divided by spaces")
        return metrics


class RecognitionGate(_TaskGate):
    """The rule of recognition."""

    task = RECOGNITION
    metrics: str = "auc tar"
    """Figures that must gain on the target, divided by spaces: auc, tar, accuracy."""


class AttributesGate(_TaskGate):
    """The rule of attributes."""

    task = ATTRIBUTES
    metrics: str = "auc"
    """Figures that must gain on the target, divided by spaces: auc, average_precision, f1, accuracy,
    balanced_accuracy."""


class ClassesGate(_TaskGate):
    """The rule of classes."""

    task = CLASSES
    metrics: str = "accuracy macro_f1"
    """Figures that must gain on the target, divided by spaces: accuracy, macro_f1, balanced_accuracy."""


GATES: dict[str, type[Gate]] = {RECOGNITION: RecognitionGate, ATTRIBUTES: AttributesGate, CLASSES: ClassesGate}
