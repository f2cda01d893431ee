"""Figures of face verification: scores of genuine and impostor pairs in, accuracy, AUC, EER and TAR@FAR out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# A rate is only read off where at least this many impostor pairs lie beyond the threshold.
LEAST_IMPOSTORS = 3
FOLDS = 10


@dataclass(frozen=True)
class Pairs:
    """Pairs of images by index: left, right (N, int64) and whether they show one person (N, bool)."""

    left: Ints
    right: Ints
    same: Bools

    def __len__(self) -> int:
        return len(self.same)

    def scores(self, embeddings: NDArray[np.float32]) -> Floats:
        """Cosine similarity of each pair (N, −1…1) from unit-length embeddings (images×D), in flat memory."""
        parts = [
            np.einsum("nd,nd->n", embeddings[self.left[part]], embeddings[self.right[part]], dtype=np.float64)
            for part in np.array_split(np.arange(len(self)), max(1, len(self) // 65536))
        ]
        return np.concatenate(parts)


def all_pairs(people: Ints, most: int, seed: int = 0) -> Pairs:
    """Every pair of images; where there are more than `most`, all genuine ones up to half of it and a
    random choice of impostors.

    Args:
        people: the person's number of each image (N, int64).
    """
    total = len(people) * (len(people) - 1) // 2
    if total <= most:
        left, right = np.triu_indices(len(people), 1)
        return Pairs(left, right, people[left] == people[right])
    random = np.random.default_rng(seed)
    genuine = []
    for person in np.unique(people):
        images = np.flatnonzero(people == person)
        left, right = np.triu_indices(len(images), 1)
        genuine.append(np.stack([images[left], images[right]], 1))
    chosen = np.concatenate(genuine)
    if len(chosen) > most // 2:
        chosen = chosen[np.sort(random.choice(len(chosen), most // 2, replace=False))]
    draws = random.integers(0, len(people), (2 * (most - len(chosen)), 2))
    draws = np.sort(draws[people[draws[:, 0]] != people[draws[:, 1]]], axis=1)
    impostors = random.permutation(np.unique(draws, axis=0))[: most - len(chosen)]  # unique() sorts
    both = np.concatenate([chosen, impostors])
    return Pairs(both[:, 0], both[:, 1], people[both[:, 0]] == people[both[:, 1]])


def stratified_folds(same: Bools, folds: int = FOLDS) -> Ints:
    """Fold of each pair (N, 0…folds−1), genuine and impostor pairs dealt out evenly."""
    numbers = np.zeros(len(same), np.int64)
    for kind in (True, False):
        places = np.flatnonzero(same == kind)
        numbers[places] = np.arange(len(places)) % folds
    return numbers


def best_threshold(scores: Floats, same: Bools) -> float:
    """The threshold of highest accuracy, midway between two scores; the lowest of several equals."""
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], same[order]
    # right[k]: pairs decided rightly when the k lowest scores are called impostors
    right = np.concatenate([[0], np.cumsum(~truth)]) + np.concatenate([np.cumsum(truth[::-1])[::-1], [0]])
    distinct = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    cut = int(np.argmax(np.where(distinct, right, -1)))
    if cut == 0:
        return float(ranked[0] - 1e-6)
    if cut == len(ranked):
        return float(ranked[-1] + 1e-6)
    middle = (ranked[cut - 1] + ranked[cut]) / 2
    return float(middle if middle < ranked[cut] else ranked[cut - 1])  # adjacent floats have no middle


def fold_accuracies(scores: Floats, same: Bools, folds: Ints) -> tuple[Floats, Floats]:
    """Accuracy in each fold at the threshold that is best on the other folds, and those thresholds.

    The protocol of LFW's View 2 (Huang et al., UMass technical report 07-49).
    """
    accuracies, thresholds = [], []
    for fold in np.unique(folds):
        test = folds == fold
        threshold = best_threshold(scores[~test], same[~test])
        thresholds.append(threshold)
        accuracies.append(float(np.mean((scores[test] > threshold) == same[test])))
    return np.array(accuracies), np.array(thresholds)


def equal_error_rate(false_matches: Floats, true_matches: Floats) -> float:
    """The rate at which FMR and FNMR cross on the ROC, by linear interpolation."""
    gap = false_matches + true_matches - 1  # FMR − FNMR, rising from −1 to 1
    after = int(np.argmax(gap >= 0))
    if after == 0 or gap[after] == gap[after - 1]:
        return float(false_matches[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_matches[after - 1] + share * (false_matches[after] - false_matches[after - 1]))


def supported_fars(impostors: int) -> list[float]:
    """The false accept rates that this many impostor pairs can tell (three of them at least)."""
    return [far for far in FARS if far * impostors >= LEAST_IMPOSTORS]


def verification(scores: Floats, same: Bools, folds: Ints | None = None) -> dict[str, Any]:
    """Figures of one model on one set of pairs.

    Args:
        scores: similarity of each pair (N), higher for the same person.
        same: whether a pair is genuine (N, bool); both kinds must occur.
        folds: fold of each pair; stratified ones where None.

    Returns:
        accuracy and accuracy_standard_error (ten folds, std with ddof 1 / √folds), threshold (mean of the
        folds'), auc, eer, tar_at_far (by rate as text, only rates that the impostors support),
        genuine_pairs, impostor_pairs.
    """
    folds = stratified_folds(same) if folds is None else folds
    accuracies, thresholds = fold_accuracies(scores, same, folds)
    false_matches, true_matches, _ = roc_curve(same, scores, drop_intermediate=False)
    impostors = int(np.sum(~same))
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_standard_error": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
        "threshold": float(thresholds.mean()),
        "auc": float(roc_auc_score(same, scores)),
        "eer": equal_error_rate(false_matches, true_matches),
        "tar_at_far": {
            f"{far:g}": float(true_matches[false_matches <= far].max()) for far in supported_fars(impostors)
        },
        "genuine_pairs": int(np.sum(same)),
        "impostor_pairs": impostors,
    }


def roc_points(scores: Floats, same: Bools, most: int = 200) -> dict[str, list[float]]:
    """The ROC thinned to about `most` points: fmr, tmr and threshold, without the infinite first threshold."""
    false_matches, true_matches, thresholds = roc_curve(same, scores)
    thresholds[0] = float(scores.max())
    places = np.unique(
        np.concatenate(
            [
                np.linspace(0, len(false_matches) - 1, most // 2).round().astype(int),
                np.searchsorted(false_matches, np.logspace(-6, 0, most // 2), side="right") - 1,
            ]
        )
    )
    return {
        "fmr": false_matches[places].tolist(),
        "tmr": true_matches[places].tolist(),
        "threshold": thresholds[places].tolist(),
    }


def threshold_table(scores: Floats, same: Bools, steps: int = 21) -> list[dict[str, float]]:
    """FMR, FNMR and accuracy at evenly spaced thresholds between the 0.1 % and 99.9 % quantile of the scores."""
    low, high = np.quantile(scores, [0.001, 0.999])
    rows = []
    for threshold in np.linspace(low, high, steps):
        called = scores > threshold
        rows.append(
            {
                "threshold": float(threshold),
                "fmr": float(np.mean(called[~same])),
                "fnmr": float(np.mean(~called[same])),
                "accuracy": float(np.mean(called == same)),
            }
        )
    return rows


class _Ranked:
    """Scores sorted once, so that AUC and TAR@FAR under many weightings cost one pass each."""

    def __init__(self, scores: Floats, same: Bools) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # last of each run of equal scores
        self.same = same[self.order]

    def figures(self, weights: Floats, far: float) -> tuple[float, float]:
        """AUC and TAR@FAR where each pair counts as often as its weight says."""
        weights = weights[self.order]
        hits = np.cumsum(np.where(self.same, weights, 0.0))[self.ends]
        misses = np.cumsum(np.where(self.same, 0.0, weights))[self.ends]
        hits, misses = np.append(0.0, hits / hits[-1]), np.append(0.0, misses / misses[-1])
        area = float(np.sum(np.diff(misses) * (hits[1:] + hits[:-1]) / 2))
        return area, float(hits[misses <= far + 1e-12].max())


def bootstrap_difference(
    before: Floats, after: Floats, pairs: Pairs, people: Ints, far: float, samples: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """95 % intervals of AUC and TAR@FAR before, after and of the gain, by resampling people.

    People are drawn with replacement; a genuine pair counts as often as its person was drawn, an impostor
    pair as the product of its two people's counts. Pairs share images and people, so that resampling
    pairs would make the intervals too narrow (Bolle, Ratha and Pankanti, "Error analysis of pattern
    recognition systems: the subsets bootstrap", CVIU 93(1), 2004). Both models see the same draws.

    Args:
        before, after: scores of the two models on `pairs` (N).
        people: the person's number of each image.
        far: the false accept rate of the TAR.

    Returns:
        auc and tar, each with before, after, gain, gain_low, gain_high, before_low, … (2.5 % and 97.5 %).
    """
    _, numbers = np.unique(people, return_inverse=True)
    first, second = numbers[pairs.left], numbers[pairs.right]
    ranked = [_Ranked(scores, pairs.same) for scores in (before, after)]
    ones = np.ones(len(pairs))
    point = np.array([model.figures(ones, far) for model in ranked])
    random = np.random.default_rng(seed)
    drawn: list[list[tuple[float, float]]] = []
    while len(drawn) < samples:
        counts = np.bincount(random.integers(0, numbers.max() + 1, numbers.max() + 1), minlength=numbers.max() + 1)
        weights = np.where(pairs.same, counts[first], counts[first] * counts[second]).astype(np.float64)
        if weights[pairs.same].sum() > 0 and weights[~pairs.same].sum() > 0:
            drawn.append([model.figures(weights, far) for model in ranked])
    spread = np.array(drawn)  # samples × model × figure
    result = {}
    for index, name in enumerate(("auc", "tar")):
        values = {"before": spread[:, 0, index], "after": spread[:, 1, index]}
        values["gain"] = values["after"] - values["before"]
        entry = {"before": point[0, index], "after": point[1, index], "gain": point[1, index] - point[0, index]}
        for key, sample in values.items():
            entry[f"{key}_low"], entry[f"{key}_high"] = np.quantile(sample, [0.025, 0.975])
        result[name] = {key: float(value) for key, value in entry.items()}
    return result
