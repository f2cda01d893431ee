"""Figures of labels against scikit-learn, on explicit resamples too; thresholds; correlation; a law of each."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from kubeface.evaluate.label_figures import (
    BINS,
    GAINED,
    MEANS,
    MIDDLE,
    MIN_IMAGES,
    Truth,
    Weighted,
    calibration_error,
    choose_thresholds,
    correlation,
    label_figures,
    mean_figures,
    predict,
)
from kubeface.evaluate.scored import Scores
from kubeface.tables.labels import UNKNOWN

IMAGES, LABELS = 60, 4


def drawn(seed: int, images: int = IMAGES, labels: int = LABELS, levels: int = 12) -> tuple[Truth, Scores]:
    """Labels, a tenth of them unknown, and scores that follow them somewhat, many of them equal."""
    random = np.random.default_rng(seed)
    truth = (random.random((images, labels)) < 0.4).astype(np.int8)
    scores = np.round(np.clip(0.3 * truth + random.random((images, labels)) * 0.7, 0, 1) * levels) / levels
    truth[random.random((images, labels)) < 0.1] = UNKNOWN
    return truth, scores.astype(np.float32)


def learned(y: Any, score: Any, threshold: float) -> dict[str, float]:
    """What scikit-learn says of a label."""
    predicted = np.asarray(score, np.float64) >= threshold
    return {
        "auc": roc_auc_score(y, score),
        "average_precision": average_precision_score(y, score),
        "precision": precision_score(y, predicted),
        "recall": recall_score(y, predicted),
        "f1": f1_score(y, predicted, zero_division=0.0),
        "accuracy": accuracy_score(y, predicted),
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
    }


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_scikit_learns_on_known_labels(seed: int) -> None:
    truth, scores = drawn(seed)
    for place in range(LABELS):
        known = truth[:, place] != UNKNOWN
        told = label_figures(truth[:, place], scores[:, place], 0.55)
        expected = learned(truth[known, place], scores[known, place], 0.55)
        assert {name: getattr(told, name) for name in expected} == pytest.approx(expected)
        assert told.positives + told.negatives == known.sum()
        assert not told.too_few


@pytest.mark.parametrize("seed", range(5))
def test_weighted_figures_are_those_of_an_explicit_resample(seed: int) -> None:
    truth, scores = drawn(seed)
    thresholds = [0.3, 0.5, 0.6, 0.7]
    weights = np.bincount(np.random.default_rng(seed).integers(0, IMAGES, IMAGES), minlength=IMAGES)
    again = np.repeat(np.arange(IMAGES), weights)
    found = Weighted(truth, scores, thresholds, list(range(LABELS))).figures(weights.astype(np.float64))
    rows = []
    for place, threshold in enumerate(thresholds):
        y = truth[again, place]
        rows.append(learned(y[y != UNKNOWN], scores[again, place][y != UNKNOWN], threshold))
    assert found[: len(GAINED)] == pytest.approx([np.mean([row[name] for row in rows]) for name in GAINED])
    assert found[len(GAINED) :] == pytest.approx([row["auc"] for row in rows])


def test_equal_weights_give_the_means_that_are_told() -> None:
    truth, scores = drawn(7)
    thresholds = choose_thresholds(truth, scores)
    labels = {
        str(place): label_figures(truth[:, place], scores[:, place], thresholds[place]) for place in range(LABELS)
    }
    means = mean_figures(labels, IMAGES)
    found = Weighted(truth, scores, thresholds, list(range(LABELS))).figures(np.ones(IMAGES))
    assert found[: len(GAINED)] == pytest.approx([getattr(means, name) for name in GAINED])


def test_a_draw_without_a_label_leaves_it_out() -> None:
    truth, scores = drawn(1)
    weights = np.where(truth[:, 0] == 1, 0.0, 1.0)  # none with the first label
    found = Weighted(truth, scores, [0.5] * LABELS, list(range(LABELS))).figures(weights)
    assert np.isnan(found[len(GAINED)])
    assert np.isfinite(found[: len(GAINED)]).all()
    assert found[0] == pytest.approx(np.mean(found[len(GAINED) + 1 :]))


def test_no_label_gives_no_figure() -> None:
    truth, scores = drawn(1)
    assert np.isnan(Weighted(truth, scores, [0.5] * LABELS, []).figures(np.ones(IMAGES))).all()


@pytest.mark.parametrize(
    ("y", "too_few"), [([1] * MIN_IMAGES + [0] * MIN_IMAGES, False), ([1] * (MIN_IMAGES - 1) + [0] * 30, True)]
)
def test_labels_with_too_few_images_are_shown_and_not_in_the_means(y: list[int], too_few: bool) -> None:
    random = np.random.default_rng(0)
    entry = label_figures(np.array(y, np.int8), random.random(len(y)).astype(np.float32), 0.5)
    good = label_figures(np.array([1] * 9 + [0] * 9, np.int8), np.linspace(1, 0, 18, dtype=np.float32), 0.5)
    means = mean_figures({"one": entry, "good": good}, 18)
    assert entry.too_few is too_few
    assert entry.auc is not None
    assert means.measured_labels == 2 - too_few
    assert means.auc == pytest.approx(1.0 if too_few else (entry.auc + 1) / 2)


def test_a_constant_and_an_unknown_label_have_no_figures() -> None:
    scores = np.linspace(0, 1, 9, dtype=np.float32)
    constant = label_figures(np.ones(9, np.int8), scores, 0.5)
    unknown = label_figures(np.full(9, UNKNOWN, np.int8), scores, 0.5)
    assert constant.auc is None
    assert constant.accuracy == pytest.approx(5 / 9)
    assert all(getattr(unknown, name) is None for name in MEANS)
    assert mean_figures({"a": constant, "b": unknown}, 9).auc is None


def test_a_label_that_is_never_predicted_has_no_precision() -> None:
    truth = np.array([0, 1] * 6, np.int8)
    told = label_figures(truth, np.full(12, 0.2, np.float32), 0.5)
    assert (told.precision, told.recall, told.f1) == (None, 0.0, 0.0)


def test_calibration_error_is_the_sum_over_bins() -> None:
    random = np.random.default_rng(3)
    score = np.append(random.random(200), [0.0, 1.0])  # the ends lie in bins too
    y = random.random(202) < score**2
    bins = np.clip(np.floor(score * BINS), 0, BINS - 1)
    expected = sum(
        (bins == place).mean() * abs(y[bins == place].mean() - score[bins == place].mean())
        for place in range(BINS)
        if (bins == place).any()
    )
    assert calibration_error(y, score) == pytest.approx(expected)
    assert calibration_error(np.array([True, False]), np.array([1.0, 0.0])) == 0


@given(st.integers(0, 1000))
def test_no_other_threshold_is_better_on_validation_images(seed: int) -> None:
    truth, scores = drawn(seed, 40, 1)
    known = truth[:, 0] != UNKNOWN
    y, score = truth[known, 0], scores[known, 0]
    (threshold,) = choose_thresholds(truth, scores)
    if min((y == 1).sum(), (y == 0).sum()) < MIN_IMAGES:
        assert threshold == MIDDLE
        return
    reached = balanced_accuracy_score(y, predict(score, threshold))
    others = [balanced_accuracy_score(y, predict(score, other)) for other in np.linspace(-0.1, 1.1, 13)]
    assert reached >= max(others) - 1e-12


def test_few_validation_images_leave_the_threshold_in_the_middle() -> None:
    truth = np.array([[1, 1]] * (MIN_IMAGES - 1) + [[0, 0]] * 20, np.int8)
    truth[MIN_IMAGES - 1, 1] = 1
    scores = np.where(truth == 1, 0.3, 0.1).astype(np.float32)
    rare, enough = choose_thresholds(truth, scores)
    assert rare == MIDDLE
    assert 0.1 < enough < 0.3
    assert choose_thresholds(np.empty((0, 2), np.int8), np.empty((0, 2), np.float32)) == [MIDDLE, MIDDLE]


def test_a_threshold_between_neighbouring_scores_divides_them() -> None:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    middle = (float(low) + float(high)) / 2
    assert predict(np.array([low, high], np.float32), middle).tolist() == [0, 1]
    assert predict(np.array([[low, high]], np.float32), [middle, middle]).tolist() == [[0, 1]]


@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 30), st.just(3)), elements=st.sampled_from([0, 1, UNKNOWN])))
def test_correlation_is_symmetric_and_matthews(truth: Truth) -> None:
    found = correlation(truth)
    for row in range(3):
        for column in range(3):
            both = (truth[:, row] != UNKNOWN) & (truth[:, column] != UNKNOWN)
            y, other = truth[both, row], truth[both, column]
            if len(set(y.tolist())) < 2 or len(set(other.tolist())) < 2:
                assert found[row][column] is None
            else:
                assert found[row][column] == pytest.approx(matthews_corrcoef(y, other))
                assert found[row][column] == found[column][row]
