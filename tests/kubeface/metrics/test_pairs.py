"""Pairs of images: which are scored, and their similarities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kubeface.metrics.pairs import Pairs, all_pairs
from kubeface.metrics.verification import verification


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
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
