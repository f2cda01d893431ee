"""The decision threshold for a wanted FMR with its interval, and the probability that a score means one person."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import Calibration
from kubeface.metrics.pairs import Bools, Floats, Ints, Pairs
from kubeface.metrics.verification import MIN_IMPOSTORS, is_supported
from kubeface.runtime.errors import require


def calibrate(
    scores: Floats,
    pairs: Pairs,
    people: Ints,
    fmr: float = 0.001,
    bootstrap: Bootstrap = Bootstrap(),
) -> Calibration:
    """The threshold at which no more than the share `fmr` of the impostor pairs matches, and the FNMR there.

    The impostor pairs support no rate below three of them: the least supported rate is used instead, and `supported` is
    false. The interval is by resampling people. logistic(slope · score + intercept) is the probability of one person
    where both cases are equally likely beforehand.

    Args:
        scores: similarity of each pair (N); above the threshold is a match.
        pairs, people: the pairs, both kinds and at least four impostor ones, and the person's number of each image.
        fmr: false match rate wanted, above 0 and below 1.

    Raises:
        KubefaceError: fmr is not a rate, or the pairs are too few.
    """
    require(0 < fmr < 1, f"fmr is {fmr}: a false match rate lies between 0 and 1")
    impostors = np.flatnonzero(~pairs.same)
    require(
        len(impostors) > MIN_IMPOSTORS and len(impostors) < len(pairs),
        f"{len(impostors)} impostor and {len(pairs) - len(impostors)} genuine pairs are too few to calibrate a "
        f"threshold with: {MIN_IMPOSTORS + 1} and 1 are needed at least",
    )
    supported, used = is_supported(fmr, len(impostors)), _supported_rate(fmr, len(impostors))
    order = impostors[np.argsort(-scores[impostors], kind="stable")]
    ranked = scores[order]
    threshold = _threshold(ranked, np.ones(len(order)), used)
    draws = [_threshold(ranked, weights, used) for weights in bootstrap.weights(pairs.take(order), people)]
    low, high = bootstrap.interval(np.array(draws))
    slope, intercept = _platt(scores, pairs.same)
    return Calibration(
        asked_fmr=fmr,
        fmr=used,
        supported=supported,
        threshold=threshold,
        threshold_low=low,
        threshold_high=high,
        fnmr=float(np.mean(scores[pairs.same] <= threshold)),
        impostor_pairs=len(impostors),
        genuine_pairs=len(pairs) - len(impostors),
        people=len(np.unique(people[np.concatenate([pairs.left, pairs.right])])),
        slope=slope,
        intercept=intercept,
    )


def threshold_at(scores: Floats, same: Bools, fmr: float) -> float:
    """The threshold alone, as `calibrate` finds it, from the same scores and kinds of pairs (N)."""
    ranked = -np.sort(-scores[~same])
    return _threshold(ranked, np.ones(len(ranked)), _supported_rate(fmr, len(ranked)))


def _supported_rate(fmr: float, impostors: int) -> float:
    """The wanted rate, or the least that so many impostor pairs support."""
    return fmr if is_supported(fmr, impostors) else MIN_IMPOSTORS / impostors


def _threshold(ranked: Floats, weights: Floats, fmr: float) -> float:
    """Midway between the last impostor score that may match and the first that may not (highest first, N)."""
    passed = np.cumsum(weights)
    first = int(np.searchsorted(passed, (fmr + 1e-12) * passed[-1]))  # 3 / 49 × 49 is a little less than 3
    return float((ranked[max(first - 1, 0)] + ranked[first]) / 2)


def _platt(scores: Floats, same: Bools) -> tuple[float, float]:
    """Slope and intercept of the logistic curve through the pairs, both kinds of equal weight in total.

    Platt, "Probabilistic outputs for support vector machines", 1999: the targets are (n + 1) / (n + 2) and
    1 / (n + 2) instead of 1 and 0, which keeps the curve finite where the scores are separable. A target between
    is a pair that counts partly as genuine, partly as impostor.
    """
    count = np.where(same, np.sum(same), np.sum(~same))  # pairs of the same kind
    kept = (count + 1) / (count + 2)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    model.fit(
        np.concatenate([scores, scores])[:, None],
        np.concatenate([same, ~same]),
        sample_weight=np.concatenate([kept, 1 - kept]) / np.concatenate([count, count]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])
