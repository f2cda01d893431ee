"""Figures of one class of many, and of refusing what belongs to none."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import log_loss, precision_recall_fscore_support

from kubeface.evaluate.label_figures import calibration_error
from kubeface.evaluate.scored import Scores
from kubeface.metrics.verification import Floats, Ints


def class_figures(truth: Ints, scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Figures of images of known classes.

    Args:
        truth: class of each image, N ≥ 1.
        scores: N×C, each row a distribution.
        names: of the C classes.

    Returns:
        accuracy, macro_f1 and balanced_accuracy (means over the classes that have images), log_loss, calibration_error
        (of the likeliest class's score), images, classes (images, precision, recall, f1 by name; precision is null
        where a class is never predicted, recall and f1 where it has no image), confusion (C×C, rows true).
    """
    predicted = scores.argmax(1)
    places = np.arange(len(names))
    confusion = np.bincount(truth * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    precision, recall, f1, images = precision_recall_fscore_support(
        truth, predicted, labels=places, average=None, zero_division=0.0
    )
    accuracy, macro, balanced = figures_of(confusion.astype(np.float64))
    return {
        "accuracy": accuracy,
        "macro_f1": macro,
        "balanced_accuracy": balanced,
        "log_loss": float(log_loss(truth, _distribution(scores), labels=places)) if len(names) > 1 else 0.0,
        "calibration_error": calibration_error(truth == predicted, scores.max(1).astype(np.float64)),
        "images": len(truth),
        "classes": {
            name: {
                "images": int(images[place]),
                "precision": float(precision[place]) if confusion[:, place].any() else None,
                "recall": float(recall[place]) if images[place] else None,
                "f1": float(f1[place]) if images[place] else None,
            }
            for place, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


def _distribution(scores: Scores) -> Floats:
    """Scores that add up to 1 in float64 too, as log_loss asks."""
    wide = scores.astype(np.float64)
    return np.asarray(wide / wide.sum(1, keepdims=True), np.float64)


def figures_of(confusion: Floats) -> tuple[float, float, float]:
    """accuracy, macro F1 and balanced accuracy of a confusion matrix (C×C, rows true, weights above 0 in all).

    The means go over the classes that have images.
    """
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    there = true > 0
    f1 = 2 * right[there] / (true[there] + predicted[there])
    return float(right.sum() / true.sum()), float(f1.mean()), float((right[there] / true[there]).mean())


class Weighted:
    """accuracy, macro F1 and balanced accuracy when images count with weights.

    Args:
        truth: class of each image, N.
        scores: N×C.
    """

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


def refusal_figures(threshold: float, truth: Ints, scores: Scores, strangers: Scores) -> dict[str, Any]:
    """How well a threshold refuses what belongs to no known class.

    Args:
        threshold: score of the likeliest class under which an image is refused.
        truth, scores: N and N×C of images of known classes.
        strangers: M×C of images of other classes.

    Returns:
        threshold, images (M), refused (share of the strangers, null without any), known_refused (share of the others),
        accuracy_of_accepted (share of right ones among all images that are not refused, where a stranger is always
        wrong; null where all are refused).
    """
    accepted, taken = (found.max(1, initial=0).astype(np.float64) >= threshold for found in (scores, strangers))
    right = accepted & (scores.argmax(1) == truth)
    count = int(accepted.sum() + taken.sum())
    return {
        "threshold": threshold,
        "images": len(strangers),
        "refused": float((~taken).mean()) if len(strangers) else None,
        "known_refused": float((~accepted).mean()),
        "accuracy_of_accepted": float(right.sum() / count) if count else None,
    }
