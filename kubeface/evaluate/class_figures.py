"""Figures of one class of many, and of refusing what belongs to none."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import log_loss, precision_recall_fscore_support

from kubeface.evaluate.label_figures import calibration_error
from kubeface.evaluate.scored import Scores
from kubeface.metrics.pairs import Floats, Ints
from kubeface.records.labelled_figures import ClassesFigures, ClassFigures, RefusalFigures


def class_figures(truth: Ints, scores: Scores, names: Sequence[str], unknown: RefusalFigures | None) -> ClassesFigures:
    """Figures of images of known classes: their class (N ≥ 1), scores (N×C, each row a distribution) and the names."""
    predicted = scores.argmax(1)
    numbers = np.arange(len(names))
    confusion = np.bincount(truth * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    precision, recall, f1, images = precision_recall_fscore_support(
        truth, predicted, labels=numbers, average=None, zero_division=0.0
    )
    wide = scores.astype(np.float64)
    wide /= wide.sum(1, keepdims=True)  # scores add up to 1 in float64 too, as log_loss asks
    accuracy, macro, balanced = figures_of(confusion.astype(np.float64))
    classes = {
        name: ClassFigures(
            images=int(images[number]),
            precision=float(precision[number]) if confusion[:, number].any() else None,
            recall=float(recall[number]) if images[number] else None,
            f1=float(f1[number]) if images[number] else None,
        )
        for number, name in enumerate(names)
    }
    return ClassesFigures(
        accuracy=accuracy,
        macro_f1=macro,
        balanced_accuracy=balanced,
        log_loss=float(log_loss(truth, wide, labels=numbers)) if len(names) > 1 else 0.0,
        calibration_error=calibration_error(truth == predicted, scores.max(1).astype(np.float64)),
        images=len(truth),
        classes=classes,
        confusion=confusion.tolist(),
        unknown=unknown,
    )


def figures_of(confusion: Floats) -> tuple[float, float, float]:
    """accuracy, macro F1 and balanced accuracy of a confusion matrix (C×C, rows true, weights above 0 in all).

    The means go over the classes that have images.
    """
    correct, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    present = true > 0
    f1 = 2 * correct[present] / (true[present] + predicted[present])
    return float(correct.sum() / true.sum()), float(f1.mean()), float((correct[present] / true[present]).mean())


class Weighted:
    """accuracy, macro F1 and balanced accuracy when images (their class N, scores N×C) count with weights."""

    def __init__(self, truth: Ints, scores: Scores) -> None:
        self._size = scores.shape[1]
        self._cells = truth * self._size + scores.argmax(1)

    def figures(self, weights: Floats) -> tuple[float, float, float]:
        """The three figures."""
        cells = np.bincount(self._cells, weights, self._size**2).astype(np.float64)
        return figures_of(cells.reshape(self._size, self._size))


def refusal_threshold(scores: Scores, refuse: float) -> float | None:
    """The score under which an image is refused as of no known class; None without validation images.

    At most the share `refuse` of validation images of known classes (scores N×C) lies under it.
    """
    best = np.sort(scores.max(1).astype(np.float64))
    return float(best[int(refuse * len(best))]) if len(best) else None


def refusal_figures(threshold: float, truth: Ints, scores: Scores, unknown: Scores) -> RefusalFigures:
    """How well a threshold refuses what belongs to no known class.

    Args:
        truth, scores: N and N×C of images of known classes.
        unknown: M×C of images of other classes; one that is not refused counts as wrong.
    """
    accepted, taken = (found.max(1, initial=0).astype(np.float64) >= threshold for found in (scores, unknown))
    correct = accepted & (scores.argmax(1) == truth)
    count = int(accepted.sum() + taken.sum())
    return RefusalFigures(
        threshold=threshold,
        images=len(unknown),
        refused=float((~taken).mean()) if len(unknown) else None,
        known_refused=float((~accepted).mean()),
        accuracy_of_accepted=float(correct.sum() / count) if count else None,
    )
