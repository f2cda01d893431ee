"""Figures of verification, each against its definition written out in full."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from kubeface.metrics.bootstrap import Bootstrap, interval, people_draws, people_weights
from kubeface.metrics.pairs import Pairs, all_pairs
from kubeface.metrics.verification import (
    FARS,
    _Ranked,
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
from kubeface.runtime.errors import KubefaceError


@st.composite
def scored(draw: st.DrawFn, least: int = 20, most: int = 120, levels: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid, so that many are equal, with ten genuine and ten impostor pairs at least."""
    size = draw(st.integers(least, most))
    scores = draw(arrays(np.int64, size, elements=st.integers(-levels, levels))) / levels
    same = draw(arrays(np.bool_, size))
    same[:10], same[10:20] = True, False
    return scores, same


def made(seed: int, genuine: int, impostors: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Normally distributed scores, the genuine ones higher by `gap` standard deviations, in mixed order."""
    random = np.random.default_rng(seed)
    same = random.permutation(np.repeat([True, False], [genuine, impostors]))
    return random.normal(size=len(same)) + gap * same, same


def brute_tar(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """The largest share of genuine pairs at or above a threshold that lets at most `far` of the impostors in."""
    best = 0.0
    for threshold in scores:
        if np.mean(scores[~same] >= threshold) <= far:
            best = max(best, float(np.mean(scores[same] >= threshold)))
    return best


# --- verification ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), genuine=st.integers(30, 80), impostors=st.integers(30, 400))
@settings(max_examples=25)
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


@given(data=scored(), seed=st.integers(0, 2**32 - 1))
def test_order_of_pairs_does_not_matter(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, same = data
    folds = stratified_folds(same)
    order = np.random.default_rng(seed).permutation(len(scores))
    assert verification(scores, same, folds) == verification(scores[order], same[order], folds[order])


@given(data=scored(), factor=st.sampled_from([0.125, 0.5, 2.0, 64.0]), shift=st.integers(-40, 40))
def test_increasing_affine_change_moves_only_the_threshold(
    data: tuple[np.ndarray, np.ndarray], factor: float, shift: int
) -> None:
    scores, same = np.round(data[0] * 24) / 32, data[1]  # dyadic, so that the change below is exact
    before, after = verification(scores, same), verification(factor * scores + shift, same)
    assert after.threshold == pytest.approx(factor * before.threshold + shift, abs=1e-4)
    assert after.model_copy(update={"threshold": before.threshold}) == before


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_left_and_right_are_alike(seed: int) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(20, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    pairs = all_pairs(np.arange(20) % 4, 10_000)
    turned = Pairs(pairs.right, pairs.left, pairs.same)
    scores = pairs.scores(embeddings)
    np.testing.assert_array_equal(scores, turned.scores(embeddings))
    assert verification(scores, pairs.same) == verification(turned.scores(embeddings), turned.same)
    expected = [float(np.dot(embeddings[a].astype(float), embeddings[b])) for a, b in zip(pairs.left, pairs.right)]  # noqa: B905
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_scores_of_many_pairs_come_in_their_order() -> None:
    """Scores are computed in portions of 65,536: none is lost or moved between them."""
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(600, 3)).astype(np.float32)
    pairs = all_pairs(np.arange(600), 10**6)
    assert len(pairs) == 179_700
    expected = (embeddings.astype(np.float64) @ embeddings.T.astype(np.float64))[pairs.left, pairs.right]
    np.testing.assert_allclose(pairs.scores(embeddings), expected, atol=1e-12)


def test_scores_of_two_models_take_left_from_one_and_right_from_the_other() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 12, 4)).astype(np.float32)
    pairs = all_pairs(np.arange(12) % 4, 100)
    expected = (one.astype(np.float64) @ other.T.astype(np.float64))[pairs.left, pairs.right]
    np.testing.assert_allclose(pairs.scores(one, other), expected, atol=1e-12)
    np.testing.assert_array_equal(pairs.scores(one, other), pairs.swapped().scores(other, one))
    np.testing.assert_array_equal(pairs.scores(one, one), pairs.scores(one))


def test_pairs_of_a_kind_keep_their_order() -> None:
    pairs = all_pairs(np.arange(12) % 4, 100)
    for kind in (True, False):
        found = pairs.of_kind(kind)
        assert set(found.same) == {kind}
        assert list(zip(found.left, found.right, strict=True)) == [
            (a, b) for a, b, same in zip(pairs.left, pairs.right, pairs.same, strict=True) if same == kind
        ]


# --- TAR@FAR --------------------------------------------------------------------------------------------------------


@given(data=scored(least=60, most=200, levels=40))
@settings(max_examples=50)
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


def brute_accuracy(scores: np.ndarray, same: np.ndarray) -> float:
    """The highest accuracy over every cut, those that call all or none genuine among them."""
    cuts = [-np.inf, *np.unique(scores)]
    return max(float(np.mean((scores > cut) == same)) for cut in cuts)


@given(data=scored(least=20, most=60, levels=8))
def test_best_threshold_is_best_of_all_cuts(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    threshold = best_threshold(scores, same)
    assert float(np.mean((scores > threshold) == same)) == brute_accuracy(scores, same)


@given(
    start=st.floats(-1, 1),
    steps=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    same=arrays(np.bool_, 12),
)
def test_best_threshold_between_neighbouring_floats(start: float, steps: list[int], same: np.ndarray) -> None:
    """Between two scores that differ in the last bit there is no number: the cut must not slip past them."""
    scores = np.array([start + step * np.spacing(start) for step in steps])
    threshold = best_threshold(scores, same)
    assert float(np.mean((scores > threshold) == same)) == brute_accuracy(scores, same)


@pytest.mark.parametrize("low", [0.3, np.nextafter(0.3, 1), -0.7, 0.0, -5e-324])
def test_best_threshold_of_two_adjacent_scores(low: float) -> None:
    scores = np.array([low, np.nextafter(low, 1)])
    threshold = best_threshold(scores, np.array([False, True]))
    np.testing.assert_array_equal(scores > threshold, [False, True])


def test_best_threshold_is_midway_and_the_lowest_of_equals() -> None:
    same = np.array([False, False, True, True])
    assert best_threshold(np.array([0.1, 0.2, 0.6, 0.7]), same) == pytest.approx(0.4)
    # 0.15 and 0.45 are both right three times of four.
    assert best_threshold(np.array([0.1, 0.2, 0.4, 0.5]), np.array([False, True, False, True])) == pytest.approx(0.15)
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert best_threshold(scores, np.ones(4, bool)) < 0.1
    assert best_threshold(scores, np.zeros(4, bool)) > 0.4


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
@settings(max_examples=25)
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
        assert set(thresholds[inside]) == {cut} == {best_threshold(scores[~inside], same[~inside])}
        assert accuracy == np.mean(called[inside] == same[inside])


@given(data=scored(), seed=st.integers(0, 2**32 - 1))
def test_decisions_move_with_their_pairs(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, same = data
    folds = stratified_folds(same)
    order = np.random.default_rng(seed).permutation(len(scores))
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


# --- pairs ----------------------------------------------------------------------------------------------------------


@given(people=arrays(np.int64, st.integers(2, 40), elements=st.integers(0, 5)))
def test_every_pair_once_where_they_fit(people: np.ndarray) -> None:
    size = len(people)
    pairs = all_pairs(people, size * (size - 1) // 2)
    assert len(pairs) == size * (size - 1) // 2
    assert {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)} == {
        frozenset((a, b)) for a in range(size) for b in range(a)
    }
    np.testing.assert_array_equal(pairs.same, people[pairs.left] == people[pairs.right])


@given(
    people=arrays(np.int64, st.integers(8, 60), elements=st.integers(0, 9)),
    share=st.floats(0.05, 0.99),
    seed=st.integers(0, 1000),
)
def test_capped_pairs_are_distinct_and_all_genuine_ones_that_fit(people: np.ndarray, share: float, seed: int) -> None:
    size = len(people)
    most = max(4, int(share * size * (size - 1) / 2))
    pairs = all_pairs(people, most, seed)
    assert len(pairs) <= most
    assert np.all(pairs.left != pairs.right)
    names = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    assert len(names) == len(pairs)
    np.testing.assert_array_equal(pairs.same, people[pairs.left] == people[pairs.right])
    counts = np.bincount(people)
    assert np.count_nonzero(pairs.same) == min(int(np.sum(counts * (counts - 1) // 2)), most // 2)
    again = all_pairs(people, most, seed)
    np.testing.assert_array_equal(pairs.left, again.left)
    np.testing.assert_array_equal(pairs.right, again.right)


def test_capped_pairs_fill_the_cap_and_depend_on_the_seed() -> None:
    people = np.arange(600) // 3
    first, second = all_pairs(people, 20_000, 0), all_pairs(people, 20_000, 1)
    assert len(first) == len(second) == 20_000
    assert np.count_nonzero(first.same) == 600
    assert set(zip(first.left, first.right, strict=True)) != set(zip(second.left, second.right, strict=True))


def test_drawn_impostors_are_spread_over_all_images() -> None:
    """Each image is in an impostor pair as often as any other: none is preferred for its place in the table."""
    people = np.arange(600) // 3
    pairs = all_pairs(people, 20_000)
    impostors = ~pairs.same
    counts = np.bincount(np.concatenate([pairs.left[impostors], pairs.right[impostors]]), minlength=600)
    assert counts.mean() == pytest.approx(64.67, abs=0.01)
    assert counts.std() < 2 * np.sqrt(counts.mean())
    for part in np.array_split(counts, 6):
        assert part.mean() == pytest.approx(counts.mean(), rel=0.1)


# --- curves ---------------------------------------------------------------------------------------------------------


@given(data=scored(most=400, levels=300))
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


# --- bootstrap ------------------------------------------------------------------------------------------------------


@given(data=scored())
def test_auc_of_equal_weights_is_that_of_sklearn(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    area, _ = _Ranked(scores, same).figures(np.ones(len(same)), 0.1)
    assert area == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@given(data=scored(levels=6), seed=st.integers(0, 2**32 - 1), far=st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_integer_weights_are_repetitions(data: tuple[np.ndarray, np.ndarray], seed: int, far: float) -> None:
    scores, same = data
    weights = np.random.default_rng(seed).integers(0, 4, len(same))
    weights[0], weights[10] = max(1, weights[0]), max(1, weights[10])  # one of each kind is left
    area, tar = _Ranked(scores, same).figures(weights.astype(np.float64), far)
    repeated, truth = np.repeat(scores, weights), np.repeat(same, weights)
    assert area == pytest.approx(roc_auc_score(truth, repeated), abs=1e-12)
    assert tar == pytest.approx(brute_tar(repeated, truth, far), abs=1e-12)


def clustered(seed: int = 0, people: int = 25, images: int = 6) -> tuple[np.ndarray, np.ndarray, Pairs, np.ndarray]:
    """Scores of two models on people of whom some are much harder than others; the second model is a bit better."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), images)
    pairs = all_pairs(person, 10**6)
    hardness = random.normal(0, 1.0, people)
    both = hardness[person[pairs.left]] + hardness[person[pairs.right]]
    noise = random.normal(0, 0.5, (2, len(pairs)))
    before = np.where(pairs.same, 1.5 + both / 2, 0) + noise[0]
    after = np.where(pairs.same, 2.0 + both / 2, 0) + noise[1]
    return before, after, pairs, person


def test_bootstrap_tells_figures_of_the_pairs_themselves() -> None:
    before, after, pairs, people = clustered()
    found = bootstrap_difference(before, after, pairs, people, far=0.1, bootstrap=Bootstrap(100))
    for name, scores in (("before", before), ("after", after)):
        measured = verification(scores, pairs.same)
        assert getattr(found["auc"], name) == pytest.approx(measured.auc, abs=1e-12)
        assert getattr(found["tar"], name) == pytest.approx(measured.tar_at_far["0.1"], abs=1e-12)
    for entry in found.values():
        assert entry.gain == pytest.approx(entry.after - entry.before)
        values = entry.model_dump()
        for name in ("before", "after", "gain"):
            assert values[f"{name}_low"] < values[name] < values[f"{name}_high"]
    assert found["auc"].gain > 0.02


def test_intervals_are_quantiles_over_drawn_people() -> None:
    """Each draw written out: a genuine pair as often as its person, an impostor pair by the product of its two."""
    before, after, pairs, people = clustered(people=8, images=3)
    found = bootstrap_difference(before, after, pairs, people, far=0.1, bootstrap=Bootstrap(100, 7))
    random = np.random.default_rng(7)
    areas, rates = [], []
    for _ in range(100):
        drawn = random.integers(0, 8, 8).tolist()
        times = [
            drawn.count(a) if same else drawn.count(a) * drawn.count(b)
            for a, b, same in zip(people[pairs.left], people[pairs.right], pairs.same, strict=True)
        ]
        truth = np.repeat(pairs.same, times)
        both = [np.repeat(scores, times) for scores in (before, after)]
        areas.append([roc_auc_score(truth, scores) for scores in both])
        rates.append([brute_tar(scores, truth, 0.1) for scores in both])
    for name, values in (("auc", np.array(areas)), ("tar", np.array(rates))):
        for key, column in (("before", values[:, 0]), ("after", values[:, 1]), ("gain", values[:, 1] - values[:, 0])):
            low, high = np.quantile(column, [0.025, 0.975])
            assert getattr(found[name], f"{key}_low") == pytest.approx(low, abs=1e-12)
            assert getattr(found[name], f"{key}_high") == pytest.approx(high, abs=1e-12)


def test_bootstrap_depends_on_its_seed_alone() -> None:
    one, again, other = (bootstrap_difference(*clustered(), 0.1, Bootstrap(100, seed)) for seed in (4, 4, 5))
    assert one == again != other


def test_bootstrap_of_two_equal_models_has_no_gain() -> None:
    before, _, pairs, people = clustered()
    for entry in bootstrap_difference(before, before.copy(), pairs, people, 0.1, bootstrap=Bootstrap(100)).values():
        assert entry.gain == entry.gain_low == entry.gain_high == 0.0
        assert entry.before_low is not None and entry.before_high is not None
        assert entry.before_low < entry.before_high


def test_bootstrap_sees_both_models_on_the_same_draws() -> None:
    """A gain that everybody shares is told more narrowly than the figures themselves."""
    before, _, pairs, people = clustered()
    entry = bootstrap_difference(before, before + 0.2 * pairs.same, pairs, people, 0.1, bootstrap=Bootstrap(200))["auc"]
    assert 0 < entry.gain_low < entry.gain_high
    assert entry.before_low is not None and entry.before_high is not None
    assert entry.gain_high - entry.gain_low < 0.5 * (entry.before_high - entry.before_low)


def test_intervals_over_people_are_wider_than_over_pairs() -> None:
    before, after, pairs, people = clustered()
    found = bootstrap_difference(before, after, pairs, people, 0.1, bootstrap=Bootstrap(300))["auc"]
    random = np.random.default_rng(0)
    naive = []
    for _ in range(300):
        counts = np.bincount(random.integers(0, len(pairs), len(pairs)), minlength=len(pairs)).astype(np.float64)
        naive.append(_Ranked(before, pairs.same).figures(counts, 0.1)[0])
    low, high = np.quantile(naive, [0.025, 0.975])
    assert low < found.before < high
    assert found.before_low is not None and found.before_high is not None
    assert found.before_high - found.before_low > 2 * (high - low)


def test_names_of_people_do_not_matter() -> None:
    before, after, pairs, people = clustered()
    renamed = people * 17 + 5
    assert bootstrap_difference(before, after, pairs, people, 0.1, Bootstrap(100)) == bootstrap_difference(
        before, after, pairs, renamed, 0.1, Bootstrap(100)
    )


def test_accuracy_of_the_bootstrap_is_that_of_the_folds() -> None:
    """Even where folds differ in size; each draw counts the folds' decisions, whose thresholds stay."""
    before, after, pairs, people = clustered(people=9, images=3)
    folds = np.arange(len(pairs)) % 7
    found = bootstrap_difference(before, after, pairs, people, 0.1, Bootstrap(100, 3), folds=folds)["accuracy"]
    random = np.random.default_rng(3)
    drawn = [np.bincount(random.integers(0, 9, 9), minlength=9) for _ in range(100)]
    for name, scores in (("before", before), ("after", after)):
        assert getattr(found, name) == pytest.approx(fold_accuracies(scores, pairs.same, folds)[0].mean(), abs=1e-12)
        correct = decisions(scores, pairs.same, folds)[0] == pairs.same
        accuracies = []
        for counts in drawn:
            left, other = counts[people[pairs.left]], counts[people[pairs.right]]
            times = np.where(pairs.same, left, left * other) / np.bincount(folds)[folds]
            accuracies.append(np.sum(times * correct) / np.sum(times))
        bounds = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
        assert bounds == pytest.approx(interval(np.array(accuracies)), abs=1e-12)


def test_bootstrap_of_separable_scores_is_perfect() -> None:
    _, _, pairs, people = clustered(people=6, images=3)
    scores = np.where(pairs.same, 0.8, 0.1)
    for name, entry in bootstrap_difference(-scores, scores, pairs, people, 0.1, bootstrap=Bootstrap(100)).items():
        assert (entry.after, entry.after_low, entry.after_high) == (1.0, 1.0, 1.0)
        if name != "accuracy":
            assert (entry.before, entry.before_low, entry.before_high) == (0.0, 0.0, 0.0)
            assert (entry.gain, entry.gain_low, entry.gain_high) == (1.0, 1.0, 1.0)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_bootstrap_does_not_depend_on_the_order_of_pairs_or_their_sides(seed: int) -> None:
    before, after, pairs, people = clustered(people=8, images=3)
    folds = stratified_folds(pairs.same)
    order = np.random.default_rng(seed).permutation(len(pairs))
    moved = Pairs(pairs.right[order], pairs.left[order], pairs.same[order])
    found = bootstrap_difference(before, after, pairs, people, 0.1, Bootstrap(50), folds=folds)
    again = bootstrap_difference(before[order], after[order], moved, people, 0.1, Bootstrap(50), folds=folds[order])
    for name, entry in found.items():
        values = entry.model_dump()
        assert values == pytest.approx(again[name].model_dump(), abs=1e-12)
        for figure in ("before", "after"):
            assert 0 <= values[f"{figure}_low"] <= values[f"{figure}_high"] <= 1


def test_swapping_the_models_turns_the_gain() -> None:
    before, after, pairs, people = clustered()
    one = bootstrap_difference(before, after, pairs, people, 0.1, Bootstrap(100))
    other = bootstrap_difference(after, before, pairs, people, 0.1, Bootstrap(100))
    for name, entry in one.items():
        assert entry.gain == pytest.approx(-other[name].gain)
        assert entry.gain_low == pytest.approx(-other[name].gain_high)
        assert entry.before_low == other[name].after_low


def test_more_confidence_is_a_wider_interval() -> None:
    before, after, pairs, people = clustered()
    wide, narrow = (
        bootstrap_difference(before, after, pairs, people, 0.1, Bootstrap(200, confidence=c)) for c in (0.99, 0.8)
    )
    for name in wide:
        assert wide[name].gain == narrow[name].gain
        assert wide[name].gain_low < narrow[name].gain_low < narrow[name].gain_high < wide[name].gain_high


@given(people=st.lists(st.integers(0, 3), min_size=4, max_size=10), seed=st.integers(0, 2**32 - 1))
def test_weights_of_pairs_come_from_their_people_and_leave_both_kinds(people: list[int], seed: int) -> None:
    numbers = np.array([0, 0, 1, *people])  # a genuine and an impostor pair at least
    pairs = all_pairs(numbers, 1000)
    draws = [weights.copy() for weights in people_weights(pairs, numbers, 8, seed)]
    assert len(draws) == 8
    for weights in draws:
        assert weights[pairs.same].sum() > 0
        assert weights[~pairs.same].sum() > 0
    person = np.unique(numbers, return_inverse=True)[1]
    for drawn in people_draws(len(np.unique(numbers)), seed):
        counts = drawn[person]
        expected = np.where(pairs.same, counts[pairs.left], counts[pairs.left] * counts[pairs.right])
        if expected[pairs.same].any() and expected[~pairs.same].any():
            break
    np.testing.assert_array_equal(draws[0], expected)


def test_few_people_never_break_the_bootstrap() -> None:
    """Of two people half of the draws have no impostor pair: they are drawn anew."""
    people = np.array([0, 0, 1, 1])
    pairs = all_pairs(people, 100)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.8])
    for entry in bootstrap_difference(scores, scores, pairs, people, 0.5, Bootstrap(200)).values():
        assert np.isfinite(list(entry.model_dump().values())).all()


def test_pairs_of_one_kind_cannot_be_compared() -> None:
    people = np.zeros(4, np.int64)
    pairs = all_pairs(people, 100)
    with pytest.raises(KubefaceError, match="genuine and impostor pairs are needed"):
        bootstrap_difference(np.ones(6), np.ones(6), pairs, people, 0.1)


def test_interval_holds_its_share() -> None:
    assert interval(np.arange(1001) / 1000, 0.9) == pytest.approx((0.05, 0.95))


def test_two_thousand_samples_of_lfw_are_quick() -> None:
    """Everything that is told of two models on 6,000 pairs; measured at 1 s, and held to twice the 3 s that are wanted,
    for the machine may be busy."""
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
    bootstrap_difference(before, after, pairs, people, 0.001, Bootstrap(2000))
    assert time.process_time() - start < 6
