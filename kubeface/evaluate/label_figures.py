"""Figures of many binary labels, each by itself and their means; images whose label is unknown do not count."""

from collections.abc import Sequence

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
from kubeface.metrics.pairs import Floats
from kubeface.records.gate import METRICS
from kubeface.records.labelled_figures import AttributesFigures, LabelFigures
from kubeface.records.tasks import ATTRIBUTES
from kubeface.tables.labels import UNKNOWN

Truth = NDArray[np.int8]
GAINED = METRICS[ATTRIBUTES]
MEANS = (
    "auc", "average_precision", "precision", "recall", "f1", "accuracy", "balanced_accuracy", "calibration_error",
)  # fmt: skip
# Images that must have a label, and must not, for its figures to count: with one or two an AUC is an anecdote.
MIN_IMAGES = 5
BINS = 15  # of the calibration error, as in Guo et al., arXiv 1706.04599
MIDDLE = 0.5  # threshold where nothing better is known


def label_figures(
    truth: Truth, scores: Scores, threshold: float, auc_bounds: tuple[float, float] | None = None
) -> LabelFigures:
    """Figures of one label; None where the label is constant, precision where it is never predicted.

    Args:
        truth, scores: N each: 1, 0 or UNKNOWN, which is left out; 0 to 1.
        threshold: score from which on the label is predicted.
    """
    known = truth != UNKNOWN
    y, score = truth[known] == 1, scores[known].astype(np.float64)
    predicted = predict(scores[known], threshold) == 1
    positives, negatives = int(y.sum()), int((~y).sum())
    figures: dict[str, float | None] = dict.fromkeys(MEANS)
    if len(y):
        figures |= {"accuracy": float(accuracy_score(y, predicted)), "calibration_error": calibration_error(y, score)}
    if positives and negatives:
        figures |= {
            "auc": float(roc_auc_score(y, score)),
            "average_precision": float(average_precision_score(y, score)),
            "precision": float(precision_score(y, predicted)) if predicted.any() else None,
            "recall": float(recall_score(y, predicted)),
            "f1": float(f1_score(y, predicted)),
            "balanced_accuracy": float(balanced_accuracy_score(y, predicted)),
        }
    low, high = auc_bounds or (None, None)
    return LabelFigures(
        **figures,
        positives=positives,
        negatives=negatives,
        threshold=threshold,
        too_few=bool(too_few(truth)),
        auc_low=low,
        auc_high=high,
    )


def predict(scores: Scores, thresholds: float | Sequence[float]) -> Truth:
    """1 where a score (N×L, or N of one label) reaches its label's threshold, else 0.

    A threshold lies between two scores; in their float32 it might be rounded onto one of them.
    """
    return (scores.astype(np.float64) >= np.asarray(thresholds, np.float64)).astype(np.int8)


def calibration_error(y: NDArray[np.bool_], score: Floats) -> float:
    """Expected calibration error: |share of positives − mean score| in BINS bins of equal width, weighted by images."""
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, y.astype(np.float64) - score, BINS)
    return float(np.abs(gaps).sum() / len(y))


def mean_figures(labels: dict[str, LabelFigures], images: int) -> AttributesFigures:
    """The labels' figures with their means over those that have enough images."""
    measured = [entry for entry in labels.values() if not entry.too_few]
    means: dict[str, float | None] = {}
    for name in MEANS:
        values = [value for entry in measured if (value := getattr(entry, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return AttributesFigures(**means, labels=labels, measured_labels=len(measured), images=images)


def choose_thresholds(truth: Truth, scores: Scores) -> list[float]:
    """The threshold of each label with the best balanced accuracy (Youden's J) on validation images (N×L).

    Midway between two scores; of equally good ones the nearest to MIDDLE, which also stands where fewer than MIN_IMAGES
    images have the label or lack it.
    """
    lacking = too_few(truth)
    return [
        MIDDLE if lacking[label] else _threshold(truth[:, label], scores[:, label]) for label in range(len(lacking))
    ]


def too_few(truth: Truth) -> NDArray[np.bool_]:
    """Which labels (L, bool) of N×L, or of N of one label, fewer than MIN_IMAGES images have, or lack."""
    return np.asarray(np.minimum((truth == 1).sum(0), (truth == 0).sum(0)) < MIN_IMAGES)


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
    """The figures of GAINED as means over the measured labels, and each one's AUC, when images count with weights.

    The scores (N×L) are sorted once; what depends on the weights alone is done for a draw.
    """

    def __init__(self, truth: Truth, scores: Scores, thresholds: list[float], measured: list[int]) -> None:
        self._measured = measured
        self._kinds = [(truth[:, label] == 1, truth[:, label] == 0) for label in measured]
        self._levels = [np.unique(scores[:, label], return_inverse=True) for label in measured]
        self._predicted = [predict(scores[:, label], thresholds[label]) for label in measured]

    def figures(self, weights: Floats) -> list[float]:
        """Means of GAINED, then the AUC of each measured label; NaN where the weights leave none."""
        rows = np.array([self._label(number, weights) for number in range(len(self._measured))]).reshape(
            -1, len(GAINED)
        )
        known = np.isfinite(rows[:, 0])
        means = rows[known].mean(0) if known.any() else np.full(len(GAINED), np.nan)
        return [*means.tolist(), *rows[:, 0].tolist()]

    def _label(self, number: int, weights: Floats) -> list[float]:
        has, lacks = (weights * kind for kind in self._kinds[number])
        total, other = has.sum(), lacks.sum()
        if not total or not other:
            return [np.nan] * len(GAINED)
        levels, level = self._levels[number]
        positives = np.bincount(level, has, len(levels))[::-1]  # the highest score first
        negatives = np.bincount(level, lacks, len(levels))[::-1]
        true, false = np.cumsum(positives), np.cumsum(negatives)
        auc = float(positives @ (other - false + negatives / 2) / (total * other))
        precision = float(positives @ (true / np.maximum(true + false, 1e-12)) / total)
        predicted = self._predicted[number]
        hits, false_alarms = float(has @ predicted), float(lacks @ predicted)
        f1 = 2 * hits / max(total + hits + false_alarms, 1e-12)
        accuracy = (hits + other - false_alarms) / (total + other)
        return [auc, precision, f1, accuracy, (hits / total + 1 - false_alarms / other) / 2]


def correlation(truth: Truth) -> list[list[float | None]]:
    """Phi coefficients of all pairs of labels (L×L) of truth N×L, each over the images that both are known of.

    None where one of the two is constant there.
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
