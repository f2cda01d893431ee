"""Figures from counts of scores, against the exact ones of the scores themselves."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kubeface.metrics import score_counts as gallery
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.score_counts import ScoreCounts, count_scores
from kubeface.metrics.verification import verification
from kubeface.runtime.errors import KubefaceError
from tests.kubeface.metrics.scores import parts, scattered, unit


@given(seed=st.integers(0, 2**32 - 1), people=st.integers(2, 40), images=st.integers(2, 6), noise=st.floats(0.1, 4))
@settings(max_examples=15)
def test_figures_are_nearly_those_of_the_scores(seed: int, people: int, images: int, noise: float) -> None:
    embeddings, person = scattered(seed, people, images, noise)
    found = count_scores(embeddings, person).figures()
    pairs = all_pairs(person, 10**6)
    exact = verification(pairs.scores(embeddings), pairs.same)
    assert (found.genuine_pairs, found.impostor_pairs) == (exact.genuine_pairs, exact.impostor_pairs)
    ties = 0.02 + 2 / min(found.genuine_pairs, found.impostor_pairs)  # what may fall into one bin
    assert found.auc == pytest.approx(exact.auc, abs=0.002)
    assert found.eer == pytest.approx(exact.eer, abs=ties)
    assert found.tar_at_far == pytest.approx(exact.tar_at_far, abs=ties)


@given(seed=st.integers(0, 2**32 - 1), bins=st.sampled_from([7, 40, 1000]))
@settings(max_examples=15)
def test_figures_are_exactly_those_of_rounded_scores(seed: int, bins: int) -> None:
    embeddings, person = scattered(seed)
    embeddings = parts(embeddings, 16)
    counts = count_scores(embeddings, person, bins)
    pairs = all_pairs(person, 10**6)
    rounded = np.clip(np.floor((pairs.scores(embeddings) + 1) * np.float32(bins / 2)), 0, bins - 1)
    for kind, truth in ((counts.genuine, True), (counts.impostor, False)):
        np.testing.assert_array_equal(kind, np.bincount(rounded[pairs.same == truth].astype(int), minlength=bins))
    found, exact = counts.figures(), verification(rounded, pairs.same)
    assert found.auc == pytest.approx(roc_auc_score(pairs.same, rounded), abs=1e-12)
    assert found.eer == pytest.approx(exact.eer, abs=1e-12)
    assert found.tar_at_far == pytest.approx(exact.tar_at_far, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_order_of_images_and_names_of_people_do_not_matter(seed: int) -> None:
    embeddings, person = scattered(seed)
    embeddings = parts(embeddings, 16)
    order = np.random.default_rng(seed).permutation(len(person))
    found, moved = count_scores(embeddings, person), count_scores(embeddings[order], 5 - 3 * person[order])
    np.testing.assert_array_equal(found.genuine, moved.genuine)
    np.testing.assert_array_equal(found.impostor, moved.impostor)
    for rates in found.rates():
        assert (rates[0], rates[-1]) == (0, 1)
        assert (np.diff(rates) >= 0).all()


def test_people_far_apart_are_perfect_and_random_ones_at_chance() -> None:
    embeddings = np.repeat(np.eye(16, dtype=np.float32), 3, axis=0)
    found = count_scores(embeddings, np.repeat(np.arange(16), 3)).figures()
    assert (found.auc, found.eer) == (1.0, 0.0)
    assert set(found.tar_at_far.values()) == {1.0}
    assert list(found.tar_at_far) == ["0.1", "0.01"]  # 1,080 impostor pairs
    random = np.random.default_rng(0)
    chance = count_scores(unit(random.normal(size=(600, 32))), np.arange(600) % 40).figures()
    assert chance.auc == pytest.approx(0.5, abs=0.02)
    assert chance.eer == pytest.approx(0.5, abs=0.02)


def test_equal_and_opposite_images_fall_into_the_outer_bins() -> None:
    """The cosine of a vector with itself may come out a little above 1."""
    line = unit(np.full((1, 7), 0.3))
    found = count_scores(np.concatenate([line, line, -line]), np.array([0, 0, 1]))
    assert (found.genuine[-1], found.genuine.sum()) == (1, 1)
    assert (found.impostor[0], found.impostor.sum()) == (2, 2)


@pytest.mark.parametrize("scores", [1, 100, 1000])
def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    embeddings, person = scattered(3)
    embeddings = parts(embeddings, 16)
    whole = count_scores(embeddings, person)
    monkeypatch.setattr(gallery, "BLOCK_SCORES", scores)
    blocks = count_scores(embeddings, person)
    np.testing.assert_array_equal(whole.genuine, blocks.genuine)
    np.testing.assert_array_equal(whole.impostor, blocks.impostor)


@pytest.mark.parametrize("person", [[0, 0, 0], [0, 1, 2], [0], []])
def test_one_kind_of_pairs_is_no_gallery(person: list[int]) -> None:
    counts = count_scores(np.full((len(person), 4), 0.5, np.float32), np.array(person, np.int64))
    assert isinstance(counts, ScoreCounts)
    with pytest.raises(KubefaceError, match="at least two people, one of them with two images"):
        counts.figures()


def test_ten_million_pairs_in_flat_memory() -> None:
    """Their scores alone would be 40 MB, with the pairs' indices 200 MB."""
    random = np.random.default_rng(0)
    embeddings = unit(random.normal(size=(4473, 128)))
    people = np.arange(4473) % 400
    tracemalloc.start()  # numpy tells it of its arrays
    try:
        counts = count_scores(embeddings, people)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts.genuine.sum() + counts.impostor.sum() == 4473 * 4472 // 2 > 10**7
    assert peak < 40 * 2**20
