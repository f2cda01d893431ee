"""Figures of many binary labels at once, each by itself and their means; labels that are not known do not count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from kubeface.evaluate.scored import Scores
from kubeface.metrics.verification import Floats
from kubeface.records.gate import METRICS
from kubeface.records.tasks import ATTRIBUTES
from kubeface.tables.labels import UNKNOWN

Truth = NDArray[np.int8]
GAINED = METRICS[ATTRIBUTES]
MEANS = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip
# Images that must have a label, and must not, for its figures to count: with one or two an AUC is an anecdote.
LEAST = 5
BINS = 15  # of the calibration error, as in Guo et al., arXiv 1706.04599
MIDDLE = 0.5  # threshold where nothing better is known


def label_figures(truth: Truth, scores: Scores, threshold: float) -> dict[str, Any]:
    """Figures of one label.

    Args:
        truth: N: 1, 0, and UNKNOWN, which is left out.
        scores: N, 0 to 1.
        threshold: score from which on the label is predicted.

    Returns:
        auc, average_precision, precision, recall, f1, accuracy, balanced_accuracy, calibration_error, positives,
        negatives, threshold, too_few. Figures are null where the label is constant, precision where it is never
        predicted.
    """
    known = truth != UNKNOWN
    y, score = truth[known] == 1, scores[known].astype(np.float64)
    predicted = predict(scores[known], threshold) == 1
    positives, negatives = int(y.sum()), int((~y).sum())
    told: dict[str, Any] = dict.fromkeys(MEANS)
    if len(y):
        told |= {"accuracy": float(accuracy_score(y, predicted)), "calibration_error": calibration_error(y, score)}
    if positives and negatives:
        told |= {
            "auc": float(roc_auc_score(y, score)),
            "average_precision": float(average_precision_score(y, score)),
            "precision": float(precision_score(y, predicted)) if predicted.any() else None,
            "recall": float(recall_score(y, predicted)),
            "f1": float(f1_score(y, predicted)),
            "balanced_accuracy": float(balanced_accuracy_score(y, predicted)),
        }
    few = bool(too_few(truth))
    return told | {"positives": positives, "negatives": negatives, "threshold": threshold, "too_few": few}


def predict(scores: Scores, thresholds: float | Sequence[float]) -> Truth:
    """1 where a score reaches its label's threshold, else 0.

    A threshold lies between two scores; in their float32 it might be rounded onto one of them.

    Args:
        scores: N×L, or N of one label.
        thresholds: L, or one.
    """
    return (scores.astype(np.float64) >= np.asarray(thresholds, np.float64)).astype(np.int8)


def calibration_error(y: NDArray[np.bool_], score: Floats) -> float:
    """Expected calibration error: |share of positives − mean score| in BINS bins of equal width, weighted by images.

    Args:
        y, score: N each; scores 0 to 1.
    """
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, y.astype(np.float64) - score, BINS)
    return float(np.abs(gaps).sum() / len(y))


def mean_figures(labels: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The labels' figures with their means over those that have enough images, as evaluation.json has them of a set."""
    measured = [entry for entry in labels.values() if not entry["too_few"]]
    means: dict[str, Any] = {}
    for name in MEANS:
        values = [entry[name] for entry in measured if entry[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means | {"labels": labels, "measured_labels": len(measured)}


def choose_thresholds(truth: Truth, scores: Scores) -> list[float]:
    """The threshold of each label with the best balanced accuracy (Youden's J) on validation images.

    Midway between two scores; of equally good ones the nearest to MIDDLE, which also stands where fewer than LEAST
    images have the label or have it not.

    Args:
        truth, scores: N×L of validation images.
    """
    few = too_few(truth)
    return [MIDDLE if few[place] else _threshold(truth[:, place], scores[:, place]) for place in range(len(few))]


def too_few(truth: Truth) -> Any:
    """Which labels (L, bool) fewer than LEAST images have, or have not.

    Args:
        truth: N×L, or N of one label.
    """
    return np.minimum((truth == 1).sum(0), (truth == 0).sum(0)) < LEAST


def _threshold(truth: Truth, scores: Scores) -> float:
    known = truth != UNKNOWN
    y, score = truth[known] == 1, scores[known].astype(np.float64)
    levels, level = np.unique(score, return_inverse=True)
    positives, negatives = (np.bincount(level, kind, len(levels)) for kind in (y, ~y))
    # From each level on upwards the label is predicted.
    gain = np.cumsum(positives[::-1])[::-1] / y.sum() - np.cumsum(negatives[::-1])[::-1] / (~y).sum()
    cuts = np.append(levels[0], (levels[1:] + levels[:-1]) / 2)
    best = cuts[gain >= gain.max() - 1e-12]
    return float(best[np.abs(best - MIDDLE).argmin()])


class Weighted:
    """The figures of GAINED as means over labels, and each label's AUC, when images count with weights.

    What depends on the weights alone is done for a draw; the scores are sorted once.

    Args:
        truth: N×L.
        scores: N×L of one model.
        thresholds: of the labels.
        measured: places of the labels that count for the means.
    """

    def __init__(self, truth: Truth, scores: Scores, thresholds: list[float], measured: list[int]) -> None:
        self._measured = measured
        self._kinds = [(truth[:, place] == 1, truth[:, place] == 0) for place in measured]
        self._levels = [np.unique(scores[:, place], return_inverse=True) for place in measured]
        self._predicted = [predict(scores[:, place], thresholds[place]) for place in measured]

    def figures(self, weights: Floats) -> list[float]:
        """Means of GAINED, then the AUC of each measured label; not a number where the weights leave none."""
        rows = np.array([self._label(place, weights) for place in range(len(self._measured))]).reshape(-1, len(GAINED))
        told = np.isfinite(rows[:, 0])
        means = rows[told].mean(0) if told.any() else np.full(len(GAINED), np.nan)
        return [*means.tolist(), *rows[:, 0].tolist()]

    def _label(self, place: int, weights: Floats) -> list[float]:
        has, lacks = (weights * kind for kind in self._kinds[place])
        total, other = has.sum(), lacks.sum()
        if not total or not other:
            return [np.nan] * len(GAINED)
        levels, level = self._levels[place]
        positives = np.bincount(level, has, len(levels))[::-1]  # the highest score first
        negatives = np.bincount(level, lacks, len(levels))[::-1]
        true, false = np.cumsum(positives), np.cumsum(negatives)
        auc = float(positives @ (other - false + negatives / 2) / (total * other))
        precision = float(positives @ (true / np.maximum(true + false, 1e-12)) / total)
        predicted = self._predicted[place]
        found, wrong = float(has @ predicted), float(lacks @ predicted)
        f1 = 2 * found / max(total + found + wrong, 1e-12)
        accuracy = (found + other - wrong) / (total + other)
        return [auc, precision, f1, accuracy, (found / total + 1 - wrong / other) / 2]


def correlation(truth: Truth) -> list[list[float | None]]:
    """Phi coefficients of all pairs of labels (L×L), each over the images that both are known of; None where one of the
    two is constant there.

    Args:
        truth: N×L: 1, 0, UNKNOWN.
    """
    has, lacks = (truth == 1).astype(np.float64), (truth == 0).astype(np.float64)
    both, neither = has.T @ has, lacks.T @ lacks
    first, second = has.T @ lacks, lacks.T @ has
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = (both * neither - first * second) / np.sqrt(margins)
    return [
        [float(value) if margin > 0 else None for value, margin in zip(*row, strict=True)]
        for row in zip(phi, margins, strict=True)
    ]
