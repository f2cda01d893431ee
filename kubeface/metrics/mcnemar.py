"""Two models on the same pairs: how many decisions changed, whether by chance, and which were lost."""

import numpy as np
from scipy.stats import binomtest

from kubeface.metrics.figures import McNemar, PairCounts, PairedTest
from kubeface.metrics.pairs import Bools, Floats, Ints


def mcnemar(correct_before: Bools, correct_after: Bools) -> McNemar:
    """McNemar's exact test: could as many decisions have changed by chance, were the models equally good?

    Only the pairs that one model decides correctly and the other wrongly count; between equal models each falls to
    either side like a coin, so that the test is a two-sided binomial one (McNemar, "Note on the
    sampling error of the difference between correlated proportions", Psychometrika 12, 1947; exact as in
    Dietterich, Neural Computation 10(7), 1998). It takes pairs as independent; where people repeat in many
    pairs, the interval over people is the one to trust.

    Args:
        correct_before, correct_after: whether each pair was decided correctly (N, bool).
    """
    only_before = int(np.sum(correct_before & ~correct_after))
    only_after = int(np.sum(~correct_before & correct_after))
    changed = only_before + only_after
    p = float(binomtest(only_before, changed).pvalue) if changed else 1.0
    return McNemar(only_before=only_before, only_after=only_after, p=p)


def paired_test(same: Bools, called_before: Bools, called_after: Bools) -> PairedTest:
    """What changed between two models' decisions (`verification.decisions`) on the same pairs (N, bool each)."""
    correct_before, correct_after = called_before == same, called_after == same

    def by_kind(pairs: Bools) -> PairCounts:
        return PairCounts(genuine=int(np.sum(pairs & same)), impostor=int(np.sum(pairs & ~same)))

    return PairedTest(
        mcnemar=mcnemar(correct_before, correct_after),
        forgotten=by_kind(correct_before & ~correct_after),
        learned=by_kind(~correct_before & correct_after),
    )


def forgotten(before: Floats, after: Floats, same: Bools, thresholds_before: Floats, thresholds_after: Floats) -> Ints:
    """Indices of the pairs that were decided correctly before and are no longer, the largest fall of the margin first.

    Scores and thresholds are N each; a score above its threshold calls a pair genuine.
    """
    lost = np.flatnonzero(((before > thresholds_before) == same) & ((after > thresholds_after) != same))
    fall = ((before - thresholds_before) - (after - thresholds_after)) * np.where(same, 1, -1)
    return lost[np.argsort(-fall[lost], kind="stable")]
