"""The bootstrap over people: draws, weights, and intervals of the figures of two models."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kubeface.metrics.bootstrap import Bootstrap, gains, people_draws, spread
from kubeface.metrics.pairs import Floats, Pairs, all_pairs
from kubeface.metrics.verification import (
    _Ranked,
    bootstrap_difference,
    decisions,
    fold_accuracies,
    stratified_folds,
    verification,
)
from kubeface.runtime.errors import KubefaceError
from tests.kubeface.metrics.scores import brute_tar, scored


@given(data=scored())
@settings(max_examples=20)
def test_auc_of_equal_weights_is_that_of_sklearn(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = data
    area, _ = _Ranked(scores, same).figures(np.ones(len(same)), 0.1)
    assert area == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@given(data=scored(levels=6), seed=st.integers(0, 2**32 - 1), far=st.sampled_from([0.01, 0.05, 0.1, 0.5]))
@settings(max_examples=20)
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
    found = bootstrap_difference(before, after, pairs, people, far=0.1, bootstrap=Bootstrap(40, 7))
    random = np.random.default_rng(7)
    areas, rates = [], []
    for _ in range(40):
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
    found = bootstrap_difference(before, after, pairs, people, 0.1, bootstrap=Bootstrap(100))["auc"]
    random = np.random.default_rng(0)
    naive = []
    for _ in range(100):
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
        assert bounds == pytest.approx(Bootstrap().interval(np.array(accuracies)), abs=1e-12)


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
    draws = [weights.copy() for weights in Bootstrap(8, seed).weights(pairs, numbers)]
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
    assert Bootstrap(confidence=0.9).interval(np.arange(1001) / 1000) == pytest.approx((0.05, 0.95))


# --- figures of images ---------------------------------------------------------------------------------------------

VALUES = np.random.default_rng(0).random(40)


def mean_of(values: Floats) -> Callable[[Floats], list[float]]:
    """The weighted mean of the values as the one figure."""
    return lambda weights: [float(weights @ values / weights.sum())]


def test_images_of_a_unit_count_together() -> None:
    units = np.repeat(np.arange(10), 4)
    seen: list[Floats] = []

    def figures(weights: Floats) -> list[float]:
        seen.append(weights)
        return [0.0]

    spread(figures, units, Bootstrap(20, 0))
    *draws, point = seen
    assert (point == 1).all()
    assert len(draws) == 20
    for weights in draws:
        assert weights.sum() == 40
        assert (weights.reshape(10, 4) == weights.reshape(10, 4)[:, :1]).all()


def test_equal_seeds_draw_alike_and_a_constant_gain_has_no_width() -> None:
    units = np.arange(40)
    before, after = (spread(mean_of(VALUES + shift), units, Bootstrap(50, 3)) for shift in (0.0, 0.25))
    other = spread(mean_of(VALUES), units, Bootstrap(50, 4))
    assert (before.draws == spread(mean_of(VALUES), units, Bootstrap(50, 3)).draws).all()
    assert (before.draws != other.draws).any()
    entry = gains(before, after, ["mean"], Bootstrap())["mean"]
    assert entry.before == pytest.approx(VALUES.mean())
    assert (entry.gain, entry.gain_low, entry.gain_high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_is_that_of_the_mean() -> None:
    found = spread(mean_of(VALUES), np.arange(40), Bootstrap(4000, 0))
    low, high = Bootstrap().finite_interval(found.draws[:, 0]) or (0, 0)
    error = VALUES.std() / np.sqrt(40)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_people_who_are_alike_widen_the_interval() -> None:
    repeated = np.repeat(VALUES[:10], 4)
    alone = spread(mean_of(repeated), np.arange(40), Bootstrap(1000, 0)).draws.std()
    together = spread(mean_of(repeated), np.repeat(np.arange(10), 4), Bootstrap(1000, 0)).draws.std()
    assert together == pytest.approx(2 * alone, rel=0.15)  # a quarter of the units


def test_what_no_draw_tells_is_left_out() -> None:
    silent = spread(lambda weights: [np.nan, float(weights[0])], np.arange(5), Bootstrap(30, 0))
    assert Bootstrap().finite_interval(silent.draws[:, 0]) is None
    assert list(gains(silent, silent, ["never", "always"], Bootstrap())) == ["always"]
