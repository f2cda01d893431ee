"""Figures of face verification: scores of genuine and impostor pairs in, accuracy, AUC, EER and TAR@FAR out."""

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import Gain, Gains, RocPoints, ScoreHistogram, ThresholdRow, VerificationFigures
from kubeface.metrics.pairs import Bools, Floats, Ints, Pairs
from kubeface.runtime.errors import require

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MIN_IMPOSTORS = 3  # impostor pairs that must lie beyond the threshold for a rate to be read off
FOLDS = 10


def stratified_folds(same: Bools, folds: int = FOLDS) -> Ints:
    """Fold of each pair (N, 0…folds−1), genuine and impostor pairs dealt out evenly."""
    numbers = np.zeros(len(same), np.int64)
    for kind in (True, False):
        members = np.flatnonzero(same == kind)
        numbers[members] = np.arange(len(members)) % folds
    return numbers


def best_threshold(ranked: Floats, truth: Bools) -> float:
    """The threshold of highest accuracy for scores that are sorted, lowest first.

    Midway between two scores; the lowest of several equals.
    """
    # correct[k]: pairs decided correctly when the k lowest scores are called impostors
    correct = np.concatenate([[0], np.cumsum(~truth)]) + np.concatenate([np.cumsum(truth[::-1])[::-1], [0]])
    distinct = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    cut = int(np.argmax(np.where(distinct, correct, -1)))
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
    cuts = [best_threshold(ranked[where != fold], truth[where != fold]) for fold in range(int(numbers.max()) + 1)]
    return numbers, np.array(cuts)


def fold_accuracies(scores: Floats, same: Bools, folds: Ints) -> tuple[Floats, Floats]:
    """Accuracy in each fold at the threshold that is best on the other folds, and those thresholds.

    The protocol of LFW's View 2 (Huang et al., UMass technical report 07-49).
    """
    numbers, thresholds = _fold_thresholds(scores, same, folds)
    correct = (scores > thresholds[numbers]) == same
    return np.bincount(numbers, correct) / np.bincount(numbers), thresholds


def decisions(scores: Floats, same: Bools, folds: Ints | None = None) -> tuple[Bools, Floats]:
    """Which pairs are called one person (N, bool), each at the threshold (N) that is best on the other folds.

    View 2's rule; the folds are stratified where None.
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


def is_supported(rate: float, impostors: int) -> bool:
    """Whether so many impostor pairs (or probes) support an error rate: three errors are expected at least.

    The rule of three of ISO/IEC 19795-1 (N trials without an error bound the rate by 3 / N at 95 % confidence).
    """
    return rate * impostors >= MIN_IMPOSTORS - 1e-9  # 3 / 49 × 49 is a little less than 3


def supported_fars(impostors: int) -> list[float]:
    """The false accept rates that so many impostor pairs support."""
    return [far for far in FARS if is_supported(far, impostors)]


def verification(scores: Floats, same: Bools, folds: Ints | None = None) -> VerificationFigures:
    """Figures of one model from scores (N, higher for the same person) of pairs of both kinds.

    The folds are stratified where None.
    """
    folds = stratified_folds(same) if folds is None else folds
    accuracies, thresholds = fold_accuracies(scores, same, folds)
    false_matches, true_matches, _ = roc_curve(same, scores, drop_intermediate=False)
    impostors = int(np.sum(~same))
    return VerificationFigures(
        accuracy=float(accuracies.mean()),
        accuracy_standard_error=float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
        threshold=float(thresholds.mean()),
        auc=float(roc_auc_score(same, scores)),
        eer=equal_error_rate(false_matches, true_matches),
        tar_at_far=tar_at_far(false_matches, true_matches, impostors),
        genuine_pairs=int(np.sum(same)),
        impostor_pairs=impostors,
    )


def tar_at_far(false_matches: Floats, true_matches: Floats, impostors: int) -> dict[str, float]:
    """TAR by FAR (as text) on a ROC, at the rates that the impostor pairs support."""
    return {f"{far:g}": float(true_matches[false_matches <= far].max()) for far in supported_fars(impostors)}


def roc_points(scores: Floats, same: Bools, limit: int = 200) -> RocPoints:
    """The ROC thinned to about `limit` points, without the infinite first threshold."""
    false_matches, true_matches, thresholds = roc_curve(same, scores)
    thresholds[0] = float(scores.max())
    points = np.unique(
        np.concatenate(
            [
                np.linspace(0, len(false_matches) - 1, limit // 2).round().astype(int),
                np.searchsorted(false_matches, np.logspace(-6, 0, limit // 2), side="right") - 1,
            ]
        )
    )
    return RocPoints(
        fmr=false_matches[points].tolist(), tmr=true_matches[points].tolist(), threshold=thresholds[points].tolist()
    )


def threshold_table(scores: Floats, same: Bools, steps: int = 21) -> list[ThresholdRow]:
    """FMR, FNMR and accuracy at evenly spaced thresholds between the 0.1 % and 99.9 % quantile of the scores."""
    low, high = np.quantile(scores, [0.001, 0.999])
    return [
        ThresholdRow(
            threshold=threshold,
            fmr=float(np.mean(scores[~same] > threshold)),
            fnmr=float(np.mean(scores[same] <= threshold)),
            accuracy=float(np.mean((scores > threshold) == same)),
        )
        for threshold in np.linspace(low, high, steps).tolist()
    ]


def score_histogram(scores: Floats, same: Bools, bins: int = 60) -> ScoreHistogram:
    """Genuine and impostor pairs by score, in bins of equal width over all scores."""
    edges = np.histogram_bin_edges(scores, bins)
    return ScoreHistogram(
        edges=edges.tolist(),
        genuine=np.histogram(scores[same], edges)[0].tolist(),
        impostor=np.histogram(scores[~same], edges)[0].tolist(),
    )


class _Ranked:
    """Ranks of impostor scores among the genuine ones, so that AUC and TAR@FAR under many weightings cost one pass."""

    def __init__(self, scores: Floats, same: Bools) -> None:
        self.genuine = np.flatnonzero(same)
        levels, self.level = np.unique(scores[self.genuine], return_inverse=True)
        above = np.searchsorted(levels, scores, side="left")
        tied = np.searchsorted(levels, scores, side="right") > above
        # 2k below the k-th genuine score, 2k + 1 on it; the genuine pairs themselves lie in a last bin of their own
        self.bins = np.where(same, 2 * len(levels) + 1, 2 * above + tied)
        self.size = 2 * len(levels) + 2

    def figures(self, weights: Floats, far: float) -> tuple[float, float]:
        """AUC and TAR@FAR where each pair counts as often as its weight says."""
        genuine = weights[self.genuine]
        impostors = np.bincount(self.bins, weights, self.size)[:-1]
        false_matches = np.cumsum(impostors[::-1])[::-1] / impostors.sum()  # from each bin on upwards
        reached, above = false_matches[1::2][self.level], false_matches[2::2][self.level]
        area = genuine @ (1 - (reached + above) / 2) / genuine.sum()  # a tie counts half
        return float(area), float(genuine[reached <= far + 1e-12].sum() / genuine.sum())


def bootstrap_difference(
    before: Floats,
    after: Floats,
    pairs: Pairs,
    people: Ints,
    far: float,
    bootstrap: Bootstrap = Bootstrap(),
    folds: Ints | None = None,
) -> Gains:
    """AUC, TAR@FAR and accuracy of two models and their gains, with intervals by resampling people.

    Both models see the same draws. The accuracy is that of `decisions`, at fixed thresholds.

    Args:
        before, after: scores of the two models on `pairs` (N); both kinds of pairs must occur.
        people: the person's number of each image.
        far: the false accept rate of the TAR.
        folds: fold of each pair; stratified ones where None.

    Raises:
        KubefaceError: pairs of one kind only.
    """
    require(bool(pairs.same.any() and not pairs.same.all()), "genuine and impostor pairs are needed to compare models")
    folds = stratified_folds(pairs.same) if folds is None else folds
    _, numbers = np.unique(folds, return_inverse=True)
    share = 1 / np.bincount(numbers)[numbers]  # every fold counts alike, however many pairs it has
    models = [
        (_Ranked(scores, pairs.same), share * (decisions(scores, pairs.same, folds)[0] == pairs.same))
        for scores in (before, after)
    ]

    def figures(weights: Floats) -> list[tuple[float, float, float]]:
        return [
            (*ranked.figures(weights, far), float(weights @ correct / (weights @ share))) for ranked, correct in models
        ]

    point = np.array(figures(np.ones(len(pairs))))  # model × figure
    draws = np.array([figures(weights) for weights in bootstrap.weights(pairs, people)])
    return {
        name: gain_of(point[:, index], draws[:, :, index], bootstrap)
        for index, name in enumerate(("auc", "tar", "accuracy"))
    }


def gain_of(point: Floats, draws: Floats, bootstrap: Bootstrap) -> Gain:
    """One figure of two models (2) with the intervals of both and of the gain from draws (draws×2)."""
    change = draws[:, 1] - draws[:, 0]
    (before_low, before_high), (after_low, after_high), (gain_low, gain_high) = (
        bootstrap.interval(values) for values in (draws[:, 0], draws[:, 1], change)
    )
    return Gain(
        before=float(point[0]),
        before_low=before_low,
        before_high=before_high,
        after=float(point[1]),
        after_low=after_low,
        after_high=after_high,
        gain=float(point[1] - point[0]),
        gain_low=gain_low,
        gain_high=gain_high,
    )
