"""Figures of verification, each against its definition written out in full."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import Pairs
from kubeface.metrics.verification import (
    FARS,
    best_threshold,
    bootstrap_difference,
    decisions,
    equal_error_rate,
    fold_accuracies,
    is_supported,
    roc_points,
    score_histogram,
    stratified_folds,
    supported_fars,
    threshold_table,
    verification,
)
from tests.kubeface.metrics.scores import brute_tar, made, scored

# --- verification ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), genuine=st.integers(30, 80), impostors=st.integers(30, 400))
@settings(max_examples=15)
def test_separable_scores_are_perfect(seed: int, genuine: int, impostors: int) -> None:
    random = np.random.default_rng(seed)
    same = random.permutation(np.repeat([True, False], [genuine, impostors]))
    scores = np.where(same, 1, -1) * random.uniform(0.8, 1.0, len(same))
    found = verification(scores, same)
    assert found.accuracy == found.auc == 1.0
    assert found.accuracy_standard_error == found.eer == 0.0
    assert -0.1 <= found.threshold <= 0.1
    assert found.tar_at_far == {f"{far:g}": 1.0 for far in supported_fars(impostors)}
    # The other way round every figure is the worst there is.
    worst = verification(-scores, same)
    assert (worst.auc, worst.eer) == (0.0, 1.0)
    assert set(worst.tar_at_far.values()) == {0.0}


@pytest.mark.parametrize("seed", range(3))
def test_random_scores_are_at_chance(seed: int) -> None:
    scores, same = made(seed, 5000, 5000, gap=0.0)
    found = verification(scores, same)
    assert found.auc == pytest.approx(0.5, abs=0.03)
    assert found.eer == pytest.approx(0.5, abs=0.03)
    assert found.accuracy == pytest.approx(0.5, abs=0.03)
    for far, rate in found.tar_at_far.items():
        assert rate == pytest.approx(float(far), abs=0.02)


def test_figures_of_normal_scores_are_the_textbook_ones() -> None:
    """Two normal distributions two deviations apart: AUC Φ(√2), EER Φ(−1), TAR@FAR=0.1 Φ(2 − 1.2816)."""
    scores, same = made(0, 60_000, 60_000, gap=2.0)
    found = verification(scores, same)
    assert found.auc == pytest.approx(0.92135, abs=0.003)
    assert found.eer == pytest.approx(0.15866, abs=0.004)
    assert found.accuracy == pytest.approx(1 - 0.15866, abs=0.004)
    assert found.threshold == pytest.approx(1.0, abs=0.1)
    assert found.tar_at_far["0.1"] == pytest.approx(0.76377, abs=0.01)


@given(data=scored())
@settings(max_examples=20)
def test_figures_are_bounded_and_ordered(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    found = verification(scores, same)
    for key in ("accuracy", "auc", "eer"):
        assert 0 <= getattr(found, key) <= 1
    assert found.accuracy_standard_error >= 0
    rates = [found.tar_at_far[key] for key in sorted(found.tar_at_far, key=float)]
    assert rates == sorted(rates)
    assert all(0 <= rate <= 1 for rate in rates)
    assert found.genuine_pairs + found.impostor_pairs == len(same)
    assert found.genuine_pairs == np.count_nonzero(same)


@given(data=scored(), factor=st.sampled_from([0.125, 0.5, 2.0, 64.0]), shift=st.integers(-40, 40))
@settings(max_examples=20)
def test_increasing_affine_change_moves_only_the_threshold(
    data: tuple[np.ndarray, np.ndarray], factor: float, shift: int
) -> None:
    scores, same = np.round(data[0] * 24) / 32, data[1]  # dyadic, so that the change below is exact
    before, after = verification(scores, same), verification(factor * scores + shift, same)
    assert after.threshold == pytest.approx(factor * before.threshold + shift, abs=1e-4)
    assert after.model_copy(update={"threshold": before.threshold}) == before


# --- TAR@FAR --------------------------------------------------------------------------------------------------------


@given(data=scored(least=60, most=200, levels=40))
@settings(max_examples=15)
def test_tar_at_far_is_what_the_definition_says(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    same[20:50] = False  # 40 impostors at least, so that 0.1 is told
    found = verification(scores, same).tar_at_far
    assert "0.1" in found
    assert found == {far: pytest.approx(brute_tar(scores, same, float(far)), abs=1e-12) for far in found}


def test_tar_at_far_with_continuous_scores() -> None:
    scores, same = made(3, 200, 3000, gap=2.0)
    found = verification(scores, same).tar_at_far
    assert list(found) == ["0.1", "0.01", "0.001"]
    assert len(set(found.values())) == 3
    for far, rate in found.items():
        assert rate == pytest.approx(brute_tar(scores, same, float(far)), abs=1e-12)


@pytest.mark.parametrize("far", FARS)
def test_a_rate_is_told_from_three_impostors_on(far: float) -> None:
    enough = round(3 / far)
    assert far in supported_fars(enough)
    assert far not in supported_fars(enough - 1)
    assert supported_fars(enough) == [rate for rate in FARS if rate >= far]


@given(impostors=st.integers(3, 10**6))
def test_the_least_rate_that_pairs_tell_is_three_of_them(impostors: int) -> None:
    assert is_supported(3 / impostors, impostors)
    assert not is_supported(2.9 / impostors, impostors)


def test_no_rate_is_told_from_no_impostors() -> None:
    assert supported_fars(0) == supported_fars(29) == []


# --- thresholds and folds -------------------------------------------------------------------------------------------


def best(scores: np.ndarray, same: np.ndarray) -> float:
    order = np.argsort(scores, kind="stable")
    return best_threshold(scores[order], same[order])


def brute_accuracy(scores: np.ndarray, same: np.ndarray) -> float:
    """The highest accuracy over every cut, those that call all or none genuine among them."""
    cuts = [-np.inf, *np.unique(scores)]
    return max(float(np.mean((scores > cut) == same)) for cut in cuts)


@given(data=scored(least=20, most=60, levels=8))
def test_best_threshold_is_best_of_all_cuts(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    threshold = best(scores, same)
    assert float(np.mean((scores > threshold) == same)) == brute_accuracy(scores, same)


@given(
    start=st.floats(-1, 1),
    steps=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    same=arrays(np.bool_, 12),
)
def test_best_threshold_between_neighbouring_floats(start: float, steps: list[int], same: np.ndarray) -> None:
    """Between two scores that differ in the last bit there is no number: the cut must not slip past them."""
    scores = np.array([start + step * np.spacing(start) for step in steps])
    threshold = best(scores, same)
    assert float(np.mean((scores > threshold) == same)) == brute_accuracy(scores, same)


@pytest.mark.parametrize("low", [0.3, np.nextafter(0.3, 1), -0.7, 0.0, -5e-324])
def test_best_threshold_of_two_adjacent_scores(low: float) -> None:
    scores = np.array([low, np.nextafter(low, 1)])
    threshold = best(scores, np.array([False, True]))
    np.testing.assert_array_equal(scores > threshold, [False, True])


def test_best_threshold_is_midway_and_the_lowest_of_equals() -> None:
    same = np.array([False, False, True, True])
    assert best(np.array([0.1, 0.2, 0.6, 0.7]), same) == pytest.approx(0.4)
    # 0.15 and 0.45 are both right three times of four.
    assert best(np.array([0.1, 0.2, 0.4, 0.5]), np.array([False, True, False, True])) == pytest.approx(0.15)
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert best(scores, np.ones(4, bool)) < 0.1
    assert best(scores, np.zeros(4, bool)) > 0.4


def planted_fold() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nine folds with scores 0.3 and 0.7, and fold 3 with 0.1 and 0.45: its own best threshold would be 0.275."""
    folds = np.repeat(np.arange(10), 20)
    same = np.tile(np.repeat([True, False], 10), 10)
    scores = np.where(folds == 3, np.where(same, 0.45, 0.1), np.where(same, 0.7, 0.3))
    return scores, same, folds


def test_threshold_of_a_fold_comes_from_the_other_nine() -> None:
    scores, same, folds = planted_fold()
    accuracies, thresholds = fold_accuracies(scores, same, folds)
    np.testing.assert_allclose(thresholds, [0.375] * 3 + [0.5] + [0.375] * 6)
    np.testing.assert_allclose(accuracies, [1.0] * 3 + [0.5] + [1.0] * 6)


def test_standard_error_is_that_of_the_mean_of_ten_folds() -> None:
    scores, same, folds = planted_fold()
    found = verification(scores, same, folds)
    each = np.array([1.0] * 9 + [0.5])
    assert found.accuracy == pytest.approx(0.95)
    assert found.accuracy_standard_error == pytest.approx(np.sqrt(np.sum((each - 0.95) ** 2) / 9) / np.sqrt(10))
    assert found.accuracy_standard_error == pytest.approx(0.05)
    assert found.threshold == pytest.approx(0.3875)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(40, 200))
@settings(max_examples=15)
def test_folds_by_the_definition(seed: int, size: int) -> None:
    """Accuracy and error of any scores and folds, with the nine others' best cut looked up by brute force."""
    random = np.random.default_rng(seed)
    same = np.arange(size) % 2 == 0
    folds = random.permutation(np.arange(size) % 10)
    scores = np.round(random.normal(size=size) + same, 1)
    expected = []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        # Every threshold between two scores, lowest first; max() keeps the first of equals.
        levels = np.unique(scores[train])
        cuts = [levels[0] - 1e-6, *(levels[1:] + levels[:-1]) / 2, levels[-1] + 1e-6]
        cut = max(cuts, key=lambda t: np.mean((scores[train] > t) == same[train]))
        expected.append(np.mean((scores[test] > cut) == same[test]))
    found = verification(scores, same, folds)
    assert found.accuracy == pytest.approx(np.mean(expected))
    assert found.accuracy_standard_error == pytest.approx(np.std(expected, ddof=1) / np.sqrt(10))


@given(data=scored(), seed=st.integers(0, 2**32 - 1))
def test_decisions_are_those_that_the_accuracy_counts(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, same = data
    names = np.array([7, 3, 40])
    folds = names[np.random.default_rng(seed).integers(0, 3, len(same))]
    folds[:3], folds[10:13] = names, names
    called, thresholds = decisions(scores, same, folds)
    np.testing.assert_array_equal(called, scores > thresholds)
    accuracies, cuts = fold_accuracies(scores, same, folds)
    for fold, accuracy, cut in zip([3, 7, 40], accuracies, cuts, strict=True):
        inside = folds == fold
        assert set(thresholds[inside]) == {cut} == {best(scores[~inside], same[~inside])}
        assert accuracy == np.mean(called[inside] == same[inside])


@given(data=scored(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_order_of_pairs_moves_their_decisions_alone(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, same = data
    folds = stratified_folds(same)
    order = np.random.default_rng(seed).permutation(len(scores))
    assert verification(scores, same, folds) == verification(scores[order], same[order], folds[order])
    for found, moved in zip(
        decisions(scores, same, folds), decisions(scores[order], same[order], folds[order]), strict=True
    ):
        np.testing.assert_array_equal(found[order], moved)
    for given_folds, default in zip(decisions(scores, same, folds), decisions(scores, same), strict=True):
        np.testing.assert_array_equal(given_folds, default)


@given(same=arrays(np.bool_, st.integers(20, 300)))
def test_stratified_folds_deal_both_kinds_evenly(same: np.ndarray) -> None:
    folds = stratified_folds(same)
    for kind in (True, False):
        counts = np.bincount(folds[same == kind], minlength=10)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 1


# --- EER ------------------------------------------------------------------------------------------------------------


def test_equal_error_rate_by_hand() -> None:
    # Genuine 0.9 0.8 0.4, impostors 0.7 0.3 0.2 0.1. Down to 0.7 one impostor of four is in and one genuine of
    # three is out; down to 0.4 the impostor is still in and no genuine is out: they cross at FMR 1/4.
    scores = np.array([0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1])
    assert verification(np.tile(scores, 10), np.tile([True] * 3 + [False] * 4, 10)).eer == pytest.approx(0.25)


def test_equal_error_rate_within_a_tie_is_interpolated() -> None:
    # Genuine 0.9 0.5, impostors 0.5 0.1: the ROC goes from (0, 1/2) straight to (1/2, 1) and meets the diagonal
    # FNMR = FMR in the middle.
    assert equal_error_rate(np.array([0, 0, 0.5, 1]), np.array([0, 0.5, 1, 1])) == pytest.approx(0.25)
    scores = np.tile([0.9, 0.5, 0.5, 0.1], 10)
    assert verification(scores, np.tile([True, True, False, False], 10)).eer == pytest.approx(0.25)


@given(data=scored())
@settings(max_examples=20)
def test_equal_error_rate_lies_between_the_rates_around_the_crossing(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    found = verification(scores, same).eer
    low, high = 0.0, 1.0
    for threshold in np.unique(scores)[::-1]:
        fmr, fnmr = float(np.mean(scores[~same] >= threshold)), float(np.mean(scores[same] < threshold))
        if fmr < fnmr:
            low = max(low, fmr)
            high = min(high, fnmr)
        else:
            low = max(low, fnmr)
            high = min(high, fmr)
    assert low - 1e-12 <= found <= high + 1e-12


# --- curves ---------------------------------------------------------------------------------------------------------


@given(data=scored(most=400, levels=300))
@settings(max_examples=20)
def test_roc_points_are_finite_monotone_and_true(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    points = roc_points(scores, same)
    fmr, tmr, threshold = (np.array(getattr(points, key)) for key in ("fmr", "tmr", "threshold"))
    assert len(fmr) == len(tmr) == len(threshold) <= 200
    assert np.isfinite([fmr, tmr, threshold]).all()
    assert (np.diff(fmr) >= 0).all() and (np.diff(tmr) >= 0).all() and (np.diff(threshold) <= 0).all()
    assert (fmr[0], tmr[0], fmr[-1], tmr[-1]) == (0, 0, 1, 1)
    for x, y, t in zip(fmr[1:], tmr[1:], threshold[1:], strict=True):
        assert x == pytest.approx(np.mean(scores[~same] >= t))
        assert y == pytest.approx(np.mean(scores[same] >= t))


def test_roc_points_keep_the_low_rates_of_many_pairs() -> None:
    """The thinned curve still tells FMR 0.001 from 0.01, and its area is the AUC."""
    scores, same = made(1, 5000, 50_000, gap=2.0)
    points = roc_points(scores, same)
    assert len(points.fmr) <= 200
    for far in (0.001, 0.01, 0.1):
        below = [tmr for fmr, tmr in zip(points.fmr, points.tmr, strict=True) if fmr <= far]
        assert max(below) == pytest.approx(verification(scores, same).tar_at_far[f"{far:g}"], abs=0.02)
    assert np.trapezoid(points.tmr, points.fmr) == pytest.approx(roc_auc_score(same, scores), abs=0.003)


@given(data=scored())
def test_threshold_table_by_the_definition(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    rows = threshold_table(scores, same, steps=9)
    assert len(rows) == 9
    assert [row.threshold for row in rows] == sorted(row.threshold for row in rows)
    for row in rows:
        called = scores > row.threshold
        assert row.fmr == pytest.approx(np.count_nonzero(called & ~same) / np.count_nonzero(~same))
        assert row.fnmr == pytest.approx(np.count_nonzero(~called & same) / np.count_nonzero(same))
        assert row.accuracy == pytest.approx(1 - np.count_nonzero(called != same) / len(same))


@given(data=scored(), bins=st.integers(1, 80))
@settings(max_examples=20)
def test_histogram_holds_every_pair_once(data: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    scores, same = data
    found = score_histogram(scores, same, bins)
    edges = np.array(found.edges)
    assert len(edges) == bins + 1 == len(found.genuine) + 1 == len(found.impostor) + 1
    assert sum(found.genuine) == np.sum(same)
    assert sum(found.impostor) == np.sum(~same)
    if np.ptp(scores):
        assert (edges[0], edges[-1]) == (scores.min(), scores.max())
    for kind, truth in (("genuine", True), ("impostor", False)):
        inside = [(scores >= low) & (scores < high) & (same == truth) for low, high in pairwise(edges)]
        inside[-1] |= (scores == edges[-1]) & (same == truth)
        assert getattr(found, kind) == [int(np.sum(each)) for each in inside]


def test_samples_of_lfw_are_quick() -> None:
    """All figures of two models on 6,000 pairs: 3 s are wanted for 2,000 samples; here for 500, and twice the time, for
    the machine may be busy."""
    random = np.random.default_rng(0)
    people = random.integers(0, 2000, 8000)
    left, right = random.integers(0, 8000, (2, 6000))
    same = np.arange(6000) % 2 == 0
    right[same] = left[same]
    pairs = Pairs(left, right, same)
    before, after = random.normal(size=(2, 6000)) + 3 * same
    start = time.process_time()
    for scores in (before, after):
        verification(scores, same)
        roc_points(scores, same)
        threshold_table(scores, same)
        score_histogram(scores, same)
    bootstrap_difference(before, after, pairs, people, 0.001, Bootstrap(500))
    assert time.process_time() - start < 3
