"""The calibrated threshold, its interval and the confidence, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.calibration import calibrate, threshold_at
from kubeface.metrics.pairs import Pairs, all_pairs
from kubeface.runtime.errors import KubefaceError


def confidence(score: float, slope: float, intercept: float) -> float:
    return float(expit(slope * score + intercept))


def made(seed: int = 0, people: int = 30, images: int = 5, gap: float = 3.0) -> tuple[np.ndarray, Pairs, np.ndarray]:
    """Normally distributed scores of all pairs, the genuine ones higher by `gap` deviations."""
    person = np.repeat(np.arange(people), images)
    pairs = all_pairs(person, 10**6)
    return np.random.default_rng(seed).normal(size=len(pairs)) + gap * pairs.same, pairs, person


@given(seed=st.integers(0, 2**32 - 1), fmr=st.sampled_from([0.001, 0.01, 0.05, 0.3]), levels=st.sampled_from([4, 1000]))
@settings(max_examples=25)
def test_the_threshold_keeps_its_rate_and_no_lower_one_does(seed: int, fmr: float, levels: int) -> None:
    scores, pairs, person = made(seed, people=10, images=4)
    scores = np.round(scores * levels) / levels  # many equal scores, or few
    found = calibrate(scores, pairs, person, fmr, bootstrap=Bootstrap(20))
    impostors = scores[~pairs.same]
    assert np.mean(impostors > found.threshold) <= found.fmr
    below = impostors[impostors <= found.threshold].max()
    assert np.mean(impostors >= below) > found.fmr - 1e-12  # to let the next one in is too much
    assert found.fnmr == np.mean(scores[pairs.same] <= found.threshold)
    assert found.threshold_low <= found.threshold_high
    assert (found.impostor_pairs, found.genuine_pairs, found.people) == (720, 60, 10)


def test_the_interval_holds_the_threshold_and_the_true_one() -> None:
    scores, pairs, person = made()
    found = calibrate(scores, pairs, person, 0.01, bootstrap=Bootstrap(300))
    assert found.threshold_low < found.threshold < found.threshold_high
    assert found.threshold_low < norm.isf(0.01) < found.threshold_high
    assert found.fnmr == pytest.approx(norm.cdf(norm.isf(0.01) - 3), abs=0.05)
    wide = calibrate(scores, pairs, person, 0.01, bootstrap=Bootstrap(300, confidence=0.999))
    assert wide.threshold_low < found.threshold_low < found.threshold_high < wide.threshold_high


def test_each_bound_comes_from_draws_of_people() -> None:
    """Each draw written out: down from the highest score until more than a tenth of the drawn pairs has passed."""
    scores, pairs, person = made(people=6, images=3)
    found = calibrate(scores, pairs, person, 0.1, bootstrap=Bootstrap(50, 9))
    impostors = pairs.of_kind(False)
    order = np.argsort(-scores[~pairs.same])
    ranked = scores[~pairs.same][order]
    drawn = []
    for weights in Bootstrap(50, 9).weights(impostors, person):
        place = passed = 0
        while passed + weights[order[place]] <= 0.1 * weights.sum() + 1e-9:
            passed += weights[order[place]]
            place += 1
        drawn.append((ranked[max(place - 1, 0)] + ranked[place]) / 2)
    assert found.threshold_low == pytest.approx(np.quantile(drawn, 0.025))
    assert found.threshold_high == pytest.approx(np.quantile(drawn, 0.975))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_a_smaller_rate_needs_a_higher_threshold(seed: int) -> None:
    scores, pairs, person = made(seed, people=12)
    found = [calibrate(scores, pairs, person, fmr, bootstrap=Bootstrap(20)) for fmr in (0.3, 0.1, 0.03, 0.01)]
    thresholds = [each.threshold for each in found]
    assert thresholds == sorted(thresholds)
    assert [each.fnmr for each in found] == sorted(each.fnmr for each in found)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_order_and_sides_do_not_matter_and_scale_moves_the_threshold(seed: int) -> None:
    scores, pairs, person = made(seed, people=8)
    order = np.random.default_rng(seed).permutation(len(pairs))
    moved = Pairs(pairs.right[order], pairs.left[order], pairs.same[order])
    found = calibrate(scores, pairs, person, 0.05, bootstrap=Bootstrap(30))
    again = calibrate(scores[order], moved, person, 0.05, bootstrap=Bootstrap(30))
    assert again.model_dump() == pytest.approx(found.model_dump(), rel=1e-6)
    scaled = calibrate(scores / 4, pairs, person, 0.05, bootstrap=Bootstrap(30))
    for key in ("threshold", "threshold_low", "threshold_high"):
        assert getattr(scaled, key) == getattr(found, key) / 4
    assert scaled.fnmr == found.fnmr
    assert scaled.slope == pytest.approx(4 * found.slope, rel=1e-3)
    assert scaled.intercept == pytest.approx(found.intercept, rel=1e-3, abs=1e-3)


def test_what_the_pairs_cannot_tell_is_said() -> None:
    scores, pairs, person = made(people=10, images=4)  # 720 impostor pairs
    found = calibrate(scores, pairs, person, 0.001, bootstrap=Bootstrap(20))
    assert (found.supported, found.asked_fmr, found.fmr) == (False, 0.001, 3 / 720)
    assert np.sum(scores[~pairs.same] > found.threshold) == 3
    enough = calibrate(scores, pairs, person, 3 / 720, bootstrap=Bootstrap(20))
    assert enough.supported
    assert enough.threshold == found.threshold


def test_separable_scores_are_told_apart_without_error() -> None:
    _, pairs, person = made(people=10, images=4)
    scores = np.where(pairs.same, 0.8, 0.1) + np.linspace(0, 0.1, len(pairs))
    found = calibrate(scores, pairs, person, 0.01, bootstrap=Bootstrap(20))
    assert found.fnmr == 0
    assert np.isfinite([found.slope, found.intercept]).all()
    assert confidence(0.85, found.slope, found.intercept) > 0.95
    assert confidence(0.15, found.slope, found.intercept) < 0.05


def test_nobody_is_surer_than_his_pairs_allow() -> None:
    """Two scores only: the curve runs through Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2)."""
    _, pairs, person = made(people=10, images=4)  # 60 genuine and 720 impostor pairs
    found = calibrate(np.where(pairs.same, 0.8, 0.1), pairs, person, 0.01, bootstrap=Bootstrap(5))
    assert confidence(0.8, found.slope, found.intercept) == pytest.approx(61 / 62, abs=1e-4)
    assert confidence(0.1, found.slope, found.intercept) == pytest.approx(1 / 722, abs=1e-4)


def test_confidence_of_normal_scores_is_the_textbook_one() -> None:
    """Two normal distributions a distance d apart, equally likely: logit P = d·s − d²/2."""
    scores, pairs, person = made(people=60, images=10, gap=2.0)
    found = calibrate(scores, pairs, person, 0.01, bootstrap=Bootstrap(5))
    assert found.slope == pytest.approx(2.0, rel=0.06)
    assert found.intercept == pytest.approx(-2.0, rel=0.06)
    # of the pairs that are said to be genuine with 70 to 90 %, weighed equally, about 80 % are
    told = expit(found.slope * scores + found.intercept)
    near = (told > 0.7) & (told < 0.9)
    weights = np.where(pairs.same, 1 / np.sum(pairs.same), 1 / np.sum(~pairs.same))
    assert np.average(pairs.same[near], weights=weights[near]) == pytest.approx(0.8, abs=0.05)


def test_confidence_at_chance_is_one_half() -> None:
    scores, pairs, person = made(people=60, images=6, gap=0.0)
    found = calibrate(scores, pairs, person, 0.01, bootstrap=Bootstrap(5))
    for score in (-2.0, 0.0, 2.0):
        assert confidence(score, found.slope, found.intercept) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("fmr", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_lies_between_0_and_1(fmr: float) -> None:
    with pytest.raises(KubefaceError, match="false match rate lies between 0 and 1"):
        calibrate(*made(), fmr)


@pytest.mark.parametrize("images", [[2, 1], [1, 1, 1, 1, 1], [5]])
def test_too_few_pairs_are_refused(images: list[int]) -> None:
    person = np.repeat(np.arange(len(images)), images)
    pairs = all_pairs(person, 100)
    with pytest.raises(KubefaceError, match="too few to calibrate"):
        calibrate(np.zeros(len(pairs)), pairs, person)


def test_the_threshold_alone_is_the_calibrations() -> None:
    scores, pairs, person = made(people=20)
    for fmr in (0.1, 0.01, 1e-6):
        expected = calibrate(scores, pairs, person, fmr, bootstrap=Bootstrap(5)).threshold
        assert threshold_at(scores, pairs.same, fmr) == expected
