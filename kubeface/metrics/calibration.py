"""The decision threshold for a wanted FMR, how sure it is, and what a score says about one person or two.

Saved beside the model as threshold.json, which inference decides with.
"""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from kubeface.metrics.verification import LEAST_IMPOSTORS, Bools, Floats, Ints, Pairs, interval, people_weights, tells
from kubeface.runtime.errors import require


def calibrate(
    scores: Floats,
    pairs: Pairs,
    people: Ints,
    fmr: float = 0.001,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The threshold at which no more than the share `fmr` of the impostor pairs matches, and the FNMR there.

    A rate below three of the impostor pairs cannot be told from them: the least rate that can is used instead, and
    `supported` is false. The interval is by resampling people.

    Args:
        scores: similarity of each pair (N); above the threshold is a match.
        pairs, people: the pairs, both kinds and at least four impostor ones, and the person's number of each image.
        fmr: false match rate wanted, above 0 and below 1.

    Returns:
        asked_fmr, fmr (the one used), threshold, threshold_low, threshold_high, fnmr, impostor_pairs,
        genuine_pairs, people, supported, and slope and intercept of the confidence: logistic(slope · score + intercept)
        is the probability that a pair shows one person, where both cases are equally likely beforehand.

    Raises:
        KubefaceError: fmr is not a rate, or the pairs are too few.
    """
    require(0 < fmr < 1, f"fmr is {fmr}: a false match rate lies between 0 and 1")
    impostors = np.flatnonzero(~pairs.same)
    require(
        len(impostors) > LEAST_IMPOSTORS and len(impostors) < len(pairs),
        f"{len(impostors)} impostor and {len(pairs) - len(impostors)} genuine pairs are too few to calibrate a "
        f"threshold with: {LEAST_IMPOSTORS + 1} and 1 are needed at least",
    )
    supported, used = tells(fmr, len(impostors)), _told_rate(fmr, len(impostors))
    order = impostors[np.argsort(-scores[impostors], kind="stable")]
    ranked = scores[order]
    threshold = _threshold(ranked, np.ones(len(order)), used)
    alike_first = Pairs(pairs.left[order], pairs.right[order], pairs.same[order])
    spread = [_threshold(ranked, weights, used) for weights in people_weights(alike_first, people, samples, seed)]
    low, high = interval(np.array(spread), confidence)
    slope, intercept = _platt(scores, pairs.same)
    return {
        "asked_fmr": fmr,
        "fmr": used,
        "supported": supported,
        "threshold": threshold,
        "threshold_low": low,
        "threshold_high": high,
        "fnmr": float(np.mean(scores[pairs.same] <= threshold)),
        "impostor_pairs": len(impostors),
        "genuine_pairs": len(pairs) - len(impostors),
        "people": len(np.unique(people[np.concatenate([pairs.left, pairs.right])])),
        "slope": slope,
        "intercept": intercept,
    }


def threshold_at(scores: Floats, same: Bools, fmr: float) -> float:
    """The threshold alone, as `calibrate` finds it, from the same scores and kinds of pairs (N)."""
    ranked = -np.sort(-scores[~same])
    return _threshold(ranked, np.ones(len(ranked)), _told_rate(fmr, len(ranked)))


def _told_rate(fmr: float, impostors: int) -> float:
    """The wanted rate, or the least that so many impostor pairs tell."""
    return fmr if tells(fmr, impostors) else LEAST_IMPOSTORS / impostors


def threshold_file(calibration: dict[str, Any], weights_sha256: str) -> dict[str, Any]:
    """Content of threshold.json: the calibration, and the SHA-256 of the weights that it holds for."""
    return {**calibration, "weights_sha256": weights_sha256}


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
