"""Figures of classes against scikit-learn, on explicit resamples too; refusing the unknown; a law of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)

from kubeface.evaluate.class_figures import Weighted, class_figures, refusal_figures, refusal_threshold
from kubeface.evaluate.scored import Scores
from kubeface.metrics.pairs import Ints
from kubeface.records.labelled_figures import ClassFigures

NAMES = ("ann", "bob", "cid", "dora")


def drawn(seed: int, images: int = 50, classes: int = 4) -> tuple[Ints, Scores]:
    """Classes and distributions that follow them somewhat."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, images)
    scores = random.random((images, classes)) + 0.7 * np.eye(classes)[truth]
    return truth, (scores / scores.sum(1, keepdims=True)).astype(np.float32)


def test_figures_are_those_of_scikit_learn() -> None:
    truth, scores = drawn(0)
    predicted = scores.argmax(1)
    found = class_figures(truth, scores, NAMES, None)
    wide = scores.astype(np.float64)
    assert found.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert 0.5 < found.accuracy < 0.95  # the example is none where everything is right
    assert found.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found.log_loss == pytest.approx(log_loss(truth, wide / wide.sum(1, keepdims=True)))
    assert found.confusion == confusion_matrix(truth, predicted).tolist()
    assert found.images == 50
    assert list(found.classes) == list(NAMES)
    for place, entry in enumerate(found.classes.values()):
        true, told = truth == place, predicted == place
        assert entry.images == true.sum()
        assert entry.precision == pytest.approx(precision_score(true, told))
        assert entry.recall == pytest.approx(recall_score(true, told))
        assert entry.f1 == pytest.approx(f1_score(true, told))


def test_calibration_error_is_that_of_the_likeliest_class() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.7, 0.3]], np.float32)
    # At 0.9 both are right, at 0.7 one of two: |1 − 0.9| for a half of the images and |0.5 − 0.7| for the other.
    found = class_figures(np.array([0, 0, 1, 1]), scores, NAMES[:2], None)
    assert found.calibration_error == pytest.approx(0.15)


def test_a_class_without_images_counts_for_no_mean_and_one_never_predicted_has_no_precision() -> None:
    truth = np.array([0, 0, 1, 1, 1])
    scores = np.eye(3, dtype=np.float32)[[0, 2, 0, 0, 0]] * 0.8 + 0.2 / 3
    found = class_figures(truth, scores, NAMES[:3], None)
    assert found.classes["bob"] == ClassFigures(images=3, precision=None, recall=0.0, f1=0.0)
    assert found.classes["cid"] == ClassFigures(images=0, precision=0.0, recall=None, f1=None)
    assert found.accuracy == pytest.approx(0.2)
    assert found.balanced_accuracy == pytest.approx(0.25)  # of ann's 0.5 and bob's 0
    assert found.macro_f1 == pytest.approx(
        f1_score(truth, scores.argmax(1), labels=[0, 1], average="macro", zero_division=0.0)
    )


def test_one_class_alone_can_be_measured() -> None:
    found = class_figures(np.zeros(3, np.int64), np.ones((3, 1), np.float32), NAMES[:1], None)
    assert (found.accuracy, found.log_loss, found.confusion) == (1.0, 0.0, [[3]])


def test_weights_are_explicit_resamples() -> None:
    truth, scores = drawn(1)
    weighted = Weighted(truth, scores)
    random = np.random.default_rng(2)
    for _ in range(20):
        # Few images, so that a draw now and then lacks a class.
        places = random.integers(0, 12, 12)
        weights = np.bincount(places, minlength=len(truth)).astype(np.float64)
        true, told = truth[places], scores[places].argmax(1)
        there = np.unique(true)
        assert weighted.figures(weights) == pytest.approx(
            (
                accuracy_score(true, told),
                f1_score(true, told, labels=there, average="macro", zero_division=0.0),
                recall_score(true, told, labels=there, average="macro", zero_division=0.0),
            )
        )


def test_weights_of_one_are_the_figures_themselves() -> None:
    truth, scores = drawn(3)
    found = class_figures(truth, scores, NAMES, None)
    assert Weighted(truth, scores).figures(np.ones(50)) == pytest.approx(
        (found.accuracy, found.macro_f1, found.balanced_accuracy)
    )


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0, 0.99))
def test_no_more_than_the_share_of_validation_images_is_refused(best: list[float], refuse: float) -> None:
    scores = np.array([[value, 0.0] for value in best], np.float32)
    threshold = refusal_threshold(scores, refuse)
    assert threshold is not None
    refused = (scores.max(1) < threshold).sum()
    assert refused <= refuse * len(best)
    # A higher score as the threshold would refuse more than that.
    higher = scores.max(1)[scores.max(1) > threshold]
    assert not len(higher) or (scores.max(1) < higher.min()).sum() > int(refuse * len(best))


def test_without_validation_images_nothing_is_refused() -> None:
    assert refusal_threshold(np.empty((0, 4), np.float32), 0.05) is None


def test_refusal() -> None:
    truth = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.45, 0.55]], np.float32)
    strangers = np.array([[0.5, 0.5], [0.95, 0.05], [0.42, 0.58]], np.float32)
    threshold = float(scores[1].max())
    found = refusal_figures(threshold, truth, scores, strangers)
    assert (found.threshold, found.images) == (threshold, 3)
    assert found.refused == pytest.approx(2 / 3)
    assert found.known_refused == pytest.approx(1 / 4)
    assert found.accuracy_of_accepted == pytest.approx(2 / 4)  # a stranger that is not refused is a mistake
    nobody = refusal_figures(0.99, truth, scores, strangers[:0])
    assert (nobody.images, nobody.refused) == (0, None)
    assert (nobody.known_refused, nobody.accuracy_of_accepted) == (1.0, None)


@given(st.permutations(range(50)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    truth, scores = drawn(4)
    one, other = class_figures(truth, scores, NAMES, None), class_figures(truth[order], scores[order], NAMES, None)
    sums = {"log_loss", "calibration_error"}
    for name in sums:  # sums of floating point numbers
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert one.model_dump(exclude=sums) == other.model_dump(exclude=sums)
