"""Figures of face verification: scores of genuine and impostor pairs in, accuracy, AUC, EER and TAR@FAR out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from kubeface.runtime.errors import require

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

    def of_kind(self, same: bool) -> "Pairs":
        """The genuine pairs (True) or the impostor pairs (False), in their order."""
        kind = self.same == same
        return Pairs(self.left[kind], self.right[kind], self.same[kind])

    def turned(self) -> "Pairs":
        """The same pairs with left and right exchanged."""
        return Pairs(self.right, self.left, self.same)

    def scores(self, embeddings: NDArray[np.float32], right: NDArray[np.float32] | None = None) -> Floats:
        """Cosine similarity of each pair (N, −1…1) from unit-length embeddings (images×D), in flat memory.

        Args:
            right: other embeddings of the same images, which the right image of each pair is looked up in.
        """
        right = embeddings if right is None else right
        parts = [
            np.einsum("nd,nd->n", embeddings[self.left[part]], right[self.right[part]], dtype=np.float64)
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
    return _best_cut(scores[order], same[order])


def _best_cut(ranked: Floats, truth: Bools) -> float:
    """`best_threshold` of scores that are sorted, lowest first."""
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


def _fold_thresholds(scores: Floats, same: Bools, folds: Ints) -> tuple[Ints, Floats]:
    """The number of each pair's fold (N, 0…F−1), and the threshold that is best on the other folds (F)."""
    _, numbers = np.unique(folds, return_inverse=True)
    order = np.argsort(scores, kind="stable")
    ranked, truth, where = scores[order], same[order], numbers[order]
    cuts = [_best_cut(ranked[where != fold], truth[where != fold]) for fold in range(int(numbers.max()) + 1)]
    return numbers, np.array(cuts)


def fold_accuracies(scores: Floats, same: Bools, folds: Ints) -> tuple[Floats, Floats]:
    """Accuracy in each fold at the threshold that is best on the other folds, and those thresholds.

    The protocol of LFW's View 2 (Huang et al., UMass technical report 07-49).
    """
    numbers, thresholds = _fold_thresholds(scores, same, folds)
    right = (scores > thresholds[numbers]) == same
    return np.bincount(numbers, right) / np.bincount(numbers), thresholds


def decisions(scores: Floats, same: Bools, folds: Ints | None = None) -> tuple[Bools, Floats]:
    """Which pairs are called one person, each at the threshold that is best on the other folds (View 2's rule).

    Args:
        scores, same: similarity and truth of each pair (N).
        folds: fold of each pair; stratified ones where None.

    Returns:
        called (N, bool) and the threshold that each pair was decided at (N); called is scores > thresholds.
    """
    numbers, cuts = _fold_thresholds(scores, same, stratified_folds(same) if folds is None else folds)
    thresholds = cuts[numbers]
    return scores > thresholds, thresholds


def equal_error_rate(false_matches: Floats, true_matches: Floats) -> float:
    """The rate at which FMR and FNMR cross on the ROC, by linear interpolation."""
    gap = false_matches + true_matches - 1  # FMR − FNMR, rising from −1 to 1
    after = int(np.argmax(gap >= 0))
    if after == 0 or gap[after] == gap[after - 1]:
        return float(false_matches[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_matches[after - 1] + share * (false_matches[after] - false_matches[after - 1]))


def tells(rate: float, impostors: int) -> bool:
    """Whether this many impostor pairs (or probes) can tell an error rate: three errors are expected at least.

    The rule of three of ISO/IEC 19795-1 (N trials without an error bound the rate by 3 / N at 95 % confidence).
    """
    return rate * impostors >= LEAST_IMPOSTORS - 1e-9  # 3 / 49 × 49 is a little less than 3


def supported_fars(impostors: int) -> list[float]:
    """The false accept rates that this many impostor pairs can tell."""
    return [far for far in FARS if tells(far, impostors)]


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


def score_histogram(scores: Floats, same: Bools, bins: int = 60) -> dict[str, list[float]]:
    """Genuine and impostor pairs by score: edges (bins + 1, evenly spaced over all scores) and counts (bins each)."""
    edges = np.histogram_bin_edges(scores, bins)
    return {
        "edges": edges.tolist(),
        "genuine": np.histogram(scores[same], edges)[0].tolist(),
        "impostor": np.histogram(scores[~same], edges)[0].tolist(),
    }


def people_draws(people: int, seed: int = 0) -> Iterator[Ints]:
    """Endless bootstrap samples: how often each of `people` people (0…people−1) was drawn, with replacement."""
    random = np.random.default_rng(seed)
    while True:
        yield np.bincount(random.integers(0, people, people), minlength=people)


def people_weights(pairs: Pairs, people: Ints, samples: int, seed: int = 0) -> Iterator[Floats]:
    """Bootstrap samples over people as weights of pairs: `samples` times one array (N) that is filled anew.

    People are drawn with replacement; a pair of one person counts as often as the person was drawn, a pair
    of two as the product of their counts. Pairs share images and people, so that resampling pairs would make
    intervals too narrow (Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the
    subsets bootstrap", CVIU 93(1), 2004). Draws that leave none of the genuine or none of the impostor pairs
    are drawn anew, for they have no figures.

    Args:
        people: the person's number of each image.
    """
    present, numbers = np.unique(people[np.concatenate([pairs.left, pairs.right])], return_inverse=True)
    first, second = np.split(numbers, 2)
    alone = np.flatnonzero(first == second)
    kinds = np.array([kind for kind in (pairs.same, ~pairs.same) if kind.any()], np.float64)
    weights, others = np.empty(len(pairs)), np.empty(len(pairs))  # reused: fresh pages cost more than the sums

    def draws() -> Iterator[Floats]:
        for drawn in people_draws(len(present), seed):
            counts = drawn.astype(np.float64)
            counts.take(first, out=weights, mode="clip")  # "clip" spares a buffer; no index is out of range
            counts.take(second, out=others, mode="clip")
            others[alone] = 1.0
            np.multiply(weights, others, out=weights)
            if (kinds @ weights).all():
                yield weights

    return islice(draws(), samples)


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The central interval that holds this share of bootstrap values (percentile bounds)."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


class _Ranked:
    """Places of impostor scores among the genuine ones, so that AUC and TAR@FAR under many weightings cost one pass."""

    def __init__(self, scores: Floats, same: Bools) -> None:
        self.genuine = np.flatnonzero(same)
        levels, self.level = np.unique(scores[self.genuine], return_inverse=True)
        above = np.searchsorted(levels, scores, side="left")
        tied = np.searchsorted(levels, scores, side="right") > above
        # 2k below the k-th genuine score, 2k + 1 on it; the genuine pairs themselves lie in a last place of their own
        self.places = np.where(same, 2 * len(levels) + 1, 2 * above + tied)
        self.size = 2 * len(levels) + 2

    def figures(self, weights: Floats, far: float) -> tuple[float, float]:
        """AUC and TAR@FAR where each pair counts as often as its weight says."""
        genuine = weights[self.genuine]
        impostors = np.bincount(self.places, weights, self.size)[:-1]
        false_matches = np.cumsum(impostors[::-1])[::-1] / impostors.sum()  # from each place on upwards
        reached, above = false_matches[1::2][self.level], false_matches[2::2][self.level]
        area = genuine @ (1 - (reached + above) / 2) / genuine.sum()  # a tie counts half
        return float(area), float(genuine[reached <= far + 1e-12].sum() / genuine.sum())


class _Decided:
    """Accuracy of decisions at the folds' thresholds under many weightings; equal weights give the folds' mean."""

    def __init__(self, scores: Floats, same: Bools, folds: Ints) -> None:
        _, numbers = np.unique(folds, return_inverse=True)
        self.share = 1 / np.bincount(numbers)[numbers]  # every fold counts alike, however many pairs it has
        self.right = self.share * (decisions(scores, same, folds)[0] == same)

    def accuracy(self, weights: Floats) -> float:
        """The share of right decisions where each pair counts as often as its weight says."""
        return float(weights @ self.right / (weights @ self.share))


def bootstrap_difference(
    before: Floats,
    after: Floats,
    pairs: Pairs,
    people: Ints,
    far: float,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    folds: Ints | None = None,
) -> dict[str, dict[str, float]]:
    """Intervals of AUC, TAR@FAR and accuracy before, after and of the gain, by resampling people (`people_weights`).

    Both models see the same draws. The accuracy is that of `decisions`, whose thresholds stay what they are.

    Args:
        before, after: scores of the two models on `pairs` (N); both kinds of pairs must occur.
        people: the person's number of each image.
        far: the false accept rate of the TAR.
        confidence: share of the draws that lie inside the bounds.
        folds: fold of each pair; stratified ones where None.

    Returns:
        auc, tar and accuracy, each with before, after, gain, gain_low, gain_high, before_low, ….

    Raises:
        KubefaceError: pairs of one kind only.
    """
    require(bool(pairs.same.any() and not pairs.same.all()), "genuine and impostor pairs are needed to compare models")
    folds = stratified_folds(pairs.same) if folds is None else folds
    models = [(_Ranked(scores, pairs.same), _Decided(scores, pairs.same, folds)) for scores in (before, after)]

    def figures(weights: Floats) -> list[tuple[float, float, float]]:
        return [(*ranked.figures(weights, far), decided.accuracy(weights)) for ranked, decided in models]

    point = np.array(figures(np.ones(len(pairs))))  # model × figure
    spread = np.array([figures(weights) for weights in people_weights(pairs, people, samples, seed)])
    result = {}
    for index, name in enumerate(("auc", "tar", "accuracy")):
        entry = {}
        for key, value, sample in (
            ("before", point[0, index], spread[:, 0, index]),
            ("after", point[1, index], spread[:, 1, index]),
            ("gain", point[1, index] - point[0, index], spread[:, 1, index] - spread[:, 0, index]),
        ):
            entry[key] = float(value)
            entry[f"{key}_low"], entry[f"{key}_high"] = interval(sample, confidence)
        result[name] = entry
    return result
