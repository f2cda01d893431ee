"""Two models on the same pairs: how many decisions changed, whether by chance, and which were lost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from kubeface.metrics.verification import Bools, Floats, Ints, Pairs

FORGOTTEN = 12  # pairs that are told one by one


def mcnemar(right_before: Bools, right_after: Bools) -> dict[str, Any]:
    """McNemar's exact test: could as many decisions have changed by chance, were the models equally good?

    Only the pairs that one model decides rightly and the other wrongly tell anything; between equal models
    each falls to either side like a coin, so that the test is a two-sided binomial one (McNemar, "Note on the
    sampling error of the difference between correlated proportions", Psychometrika 12, 1947; exact as in
    Dietterich, Neural Computation 10(7), 1998). It takes pairs as independent; where people repeat in many
    pairs, the interval over people is the one to trust.

    Args:
        right_before, right_after: whether each pair was decided rightly (N, bool).

    Returns:
        only_before and only_after (pairs that only one model decides rightly), p (0…1; 1 without such pairs).
    """
    only_before = int(np.sum(right_before & ~right_after))
    only_after = int(np.sum(~right_before & right_after))
    changed = only_before + only_after
    p = float(binomtest(only_before, changed).pvalue) if changed else 1.0
    return {"only_before": only_before, "only_after": only_after, "p": p}


def paired(same: Bools, called_before: Bools, called_after: Bools) -> dict[str, Any]:
    """What changed between two models' decisions (`metrics.decisions`) on the same pairs.

    Returns:
        mcnemar; forgotten and learned: pairs decided rightly only before or only after, by kind (genuine, impostor).
    """
    right_before, right_after = called_before == same, called_after == same

    def by_kind(pairs: Bools) -> dict[str, int]:
        return {"genuine": int(np.sum(pairs & same)), "impostor": int(np.sum(pairs & ~same))}

    return {
        "mcnemar": mcnemar(right_before, right_after),
        "forgotten": by_kind(right_before & ~right_after),
        "learned": by_kind(~right_before & right_after),
    }


def margins(scores: Floats, same: Bools, thresholds: Floats) -> Floats:
    """How far each score lies on the right side of its threshold (N); negative where the decision is wrong."""
    return np.where(same, scores - thresholds, thresholds - scores)


def forgotten(before: Floats, after: Floats, same: Bools, thresholds_before: Floats, thresholds_after: Floats) -> Ints:
    """Indices of the pairs that were decided rightly before and are no longer, the largest fall of the margin first.

    Args:
        before, after: scores of the two models (N); a score above its threshold calls a pair genuine.
        thresholds_before, thresholds_after: the thresholds that each pair was decided at (N).
    """
    lost = np.flatnonzero(((before > thresholds_before) == same) & ((after > thresholds_after) != same))
    fall = margins(before, same, thresholds_before) - margins(after, same, thresholds_after)
    return lost[np.argsort(-fall[lost], kind="stable")]


def forgotten_pairs(
    name: str,
    before: Floats,
    after: Floats,
    pairs: Pairs,
    thresholds_before: Floats,
    thresholds_after: Floats,
    images: Sequence[str],
    identities: Sequence[str],
    most: int = FORGOTTEN,
) -> list[dict[str, Any]]:
    """The first `most` of `forgotten`, written out for evaluation.json.

    Args:
        name: of the set.
        images, identities: name and person of each image.

    Returns:
        set, kind (genuine or impostor), left, right, left_identity, right_identity, before, after (scores),
        threshold_before, threshold_after of each pair.
    """
    places = forgotten(before, after, pairs.same, thresholds_before, thresholds_after)[:most]
    return [
        {
            "set": name,
            "kind": "genuine" if pairs.same[place] else "impostor",
            "left": images[pairs.left[place]],
            "right": images[pairs.right[place]],
            "left_identity": identities[pairs.left[place]],
            "right_identity": identities[pairs.right[place]],
            "before": float(before[place]),
            "after": float(after[place]),
            "threshold_before": float(thresholds_before[place]),
            "threshold_after": float(thresholds_after[place]),
        }
        for place in places
    ]


def largest_falls(rows: list[dict[str, Any]], most: int = FORGOTTEN) -> list[dict[str, Any]]:
    """The `most` pairs of several sets' `forgotten_pairs` whose margin fell furthest, those first."""

    def fall(row: dict[str, Any]) -> float:
        change = (row["before"] - row["threshold_before"]) - (row["after"] - row["threshold_after"])
        return float(change if row["kind"] == "genuine" else -change)

    return sorted(rows, key=fall, reverse=True)[:most]
