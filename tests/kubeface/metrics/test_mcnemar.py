"""Two models on the same pairs, each figure against its definition written out."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kubeface.metrics.figures import McNemar
from kubeface.metrics.mcnemar import forgotten, mcnemar, paired_test

Decided = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def decided(draw: st.DrawFn) -> Decided:
    """Truth, and the decisions of two models."""
    size = draw(st.integers(1, 60))
    same, before, after = (draw(arrays(np.bool_, size)) for _ in range(3))
    return same, before, after


@given(data=decided())
def test_mcnemar_by_the_coin(data: Decided) -> None:
    """The chance of a split of the changed pairs that is at least as uneven, each a fair coin."""
    _, before, after = data
    found = mcnemar(before, after)
    lost, won = found.only_before, found.only_after
    assert lost == sum(b and not a for b, a in zip(before, after, strict=True))
    assert won == sum(a and not b for b, a in zip(before, after, strict=True))
    coins = lost + won
    expected = sum(comb(coins, k) for k in range(coins + 1) if abs(2 * k - coins) >= abs(lost - won)) / 2**coins
    assert found.p == pytest.approx(expected, abs=1e-12)
    assert 0 < found.p <= 1


@given(data=decided(), seed=st.integers(0, 2**32 - 1))
def test_mcnemar_turns_with_the_models_and_not_with_the_order(data: Decided, seed: int) -> None:
    _, before, after = data
    found, turned = mcnemar(before, after), mcnemar(after, before)
    assert (turned.only_before, turned.only_after) == (found.only_after, found.only_before)
    assert turned.p == found.p
    order = np.random.default_rng(seed).permutation(len(before))
    assert mcnemar(before[order], after[order]) == found


def test_mcnemar_of_equal_models_and_of_a_clear_gain() -> None:
    correct = np.arange(20) % 3 == 0
    assert mcnemar(correct, correct) == McNemar(only_before=0, only_after=0, p=1.0)
    better = mcnemar(np.zeros(12, bool), np.ones(12, bool))
    assert (better.only_before, better.only_after) == (0, 12)
    assert better.p == pytest.approx(2 / 2**12)


@given(data=decided())
def test_forgotten_and_learned_are_the_changed_decisions(data: Decided) -> None:
    same, before, after = data
    found, turned = paired_test(same, before, after), paired_test(same, after, before)
    assert found.forgotten.genuine + found.forgotten.impostor == found.mcnemar.only_before
    assert found.learned.genuine + found.learned.impostor == found.mcnemar.only_after
    assert turned.forgotten == found.learned
    for kind, truth in (("genuine", True), ("impostor", False)):
        assert getattr(found.forgotten, kind) == sum((same == truth) & (before == same) & (after != same))


def test_the_largest_fall_is_told_first() -> None:
    same = np.array([True, True, False, False, True, True])
    before = np.array([0.6, 0.9, 0.1, 0.4, 0.3, 0.8])
    after = np.array([0.4, 0.2, 0.9, 0.52, 0.9, 0.7])
    half = np.full(6, 0.5)
    # falls: 0.2, 0.7, 0.8, 0.12; pair 4 was learned, pair 5 is right both times
    assert forgotten(before, after, same, half, half).tolist() == [2, 1, 0, 3]
    assert forgotten(after, before, same, half, half).tolist() == [4]
    assert forgotten(before, before, same, half, half).tolist() == []
    # the margins count, not the scores: a model whose scores and threshold all lie higher has lost nothing
    assert forgotten(before, before + 0.3, same, half, half + 0.3).tolist() == []


@given(
    scores=arrays(np.int64, (2, 30), elements=st.integers(-20, 20)),
    same=arrays(np.bool_, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_forgotten_agrees_with_the_counts_and_turns_with_the_kinds(
    scores: np.ndarray, same: np.ndarray, seed: int
) -> None:
    before, after = scores / 20
    thresholds = np.random.default_rng(seed).integers(-15, 15, (2, 30)) / 20 + 0.01  # never on a score
    found = forgotten(before, after, same, *thresholds)
    called_before, called_after = before > thresholds[0], after > thresholds[1]
    lost = paired_test(same, called_before, called_after).forgotten
    assert len(found) == lost.genuine + lost.impostor
    falls = ((before - thresholds[0]) - (after - thresholds[1])) * np.where(same, 1, -1)
    assert (np.diff(falls[found]) <= 0).all()
    assert (falls[found] > 0).all()
    assert forgotten(-before, -after, ~same, *-thresholds).tolist() == found.tolist()
