"""Old gallery, new probe: shares against counts made pair by pair."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeface.evaluate.compatibility import compatibility
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import Pairs, all_pairs
from kubeface.records.recognition_figures import Compatibility
from tests.kubeface.metrics.scores import unit

MIXED = ("old_gallery_new_probe", "old_gallery_new_probe_low", "old_gallery_new_probe_high")


def made(seed: int = 0, people: int = 12, images: int = 4) -> tuple[np.ndarray, np.ndarray, Pairs, np.ndarray]:
    """Embeddings of two models, of which the second moved a little and is less noisy; all pairs; people."""
    random = np.random.default_rng(seed)
    person = random.permutation(np.repeat(np.arange(people), images))
    centres = random.normal(size=(people, 16))
    old = unit(centres[person] + 0.8 * random.normal(size=(len(person), 16)))
    new = unit(centres[person] + 0.4 * random.normal(size=(people, 16))[person] + 0.5 * random.normal(size=old.shape))
    return old, new, all_pairs(person, 10**6), person


def measured(
    old: Any,
    new: Any,
    pairs: Pairs,
    people: Any,
    thresholds: tuple[float, float] = (0.4, 0.5),
    fmr: float = 0.1,
    draws: int = 30,
) -> Compatibility:  # fmt: skip
    return compatibility(old, new, pairs, people, thresholds, fmr, "baseline", Bootstrap(draws))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_shares_are_counted_pair_by_pair(seed: int) -> None:
    old, new, pairs, person = made(seed)
    found = measured(old, new, pairs, person)
    mixed, olds, news = old @ new.T, old @ old.T, new @ new.T
    genuine = list(zip(pairs.left[pairs.same], pairs.right[pairs.same], strict=True))
    impostors = list(zip(pairs.left[~pairs.same], pairs.right[~pairs.same], strict=True))
    assert found.old_with_old == pytest.approx(np.mean([olds[a, b] > 0.4 for a, b in genuine]))
    assert found.new_with_new == pytest.approx(np.mean([news[a, b] > 0.5 for a, b in genuine]))
    for key, chosen in (("old_gallery_new_probe", genuine), ("false_matches", impostors)):
        assert getattr(found, key) == pytest.approx(
            np.mean([[mixed[a, b] > 0.4, mixed[b, a] > 0.4] for a, b in chosen])
        )
    matched = []
    for name in range(12):
        first, *others = np.flatnonzero(person == name)
        matched.append(np.median([mixed[first, other] for other in others]) > 0.4)
    assert found.gallery_still_matched == pytest.approx(np.mean(matched))
    assert (found.genuine_pairs, found.people, found.threshold) == (72, 12, 0.4)
    assert (found.comparable, found.reason) == (True, None)


def test_the_interval_is_over_people() -> None:
    old, new, pairs, person = made()
    found = measured(old, new, pairs, person, thresholds=(0.5, 0.5), draws=400)
    assert 0 <= getattr(found, MIXED[1]) < getattr(found, MIXED[0]) < getattr(found, MIXED[2]) <= 1
    mixed = (old @ new.T) > 0.5
    random = np.random.default_rng(0)
    each = [mixed[np.ix_(person == name, person == name)] for name in range(12)]
    each_share = np.array([np.mean(block[~np.eye(4, dtype=bool)]) for block in each])
    drawn = [each_share[random.integers(0, 12, 12)].mean() for _ in range(400)]
    assert [getattr(found, key) for key in MIXED[1:]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_sides_and_order_of_pairs_do_not_matter(seed: int) -> None:
    old, new, pairs, person = made(seed)
    order = np.random.default_rng(seed).permutation(len(pairs))
    moved = Pairs(pairs.right[order], pairs.left[order], pairs.same[order])
    found = measured(old, new, pairs, person, thresholds=(0.4, 0.4))
    assert measured(old, new, moved, person, thresholds=(0.4, 0.4)) == found


def test_an_unchanged_model_needs_no_new_gallery() -> None:
    old, _, pairs, person = made()
    found = measured(old, old.copy(), pairs, person, thresholds=(0.3, 0.3))
    assert found.old_gallery_new_probe == found.old_with_old == found.new_with_new


def test_a_stricter_threshold_matches_fewer() -> None:
    old, new, pairs, person = made()
    shares = [measured(old, new, pairs, person, thresholds=(t, 0.5)) for t in (-1.1, 0.2, 0.5, 0.8, 1.1)]
    for key in ("old_with_old", "old_gallery_new_probe", "false_matches", "gallery_still_matched"):
        values = [getattr(share, key) for share in shares]
        assert values == sorted(values, reverse=True)
        assert (values[0], values[-1]) == (1.0, 0.0)


def test_a_model_of_another_kind_is_at_chance() -> None:
    """Its dimensions mean something else: pairs of one person match no more often than pairs of two."""
    old, _, pairs, person = made(people=60, images=6)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))
    found = measured(old, unit(old @ turn), pairs, person, thresholds=(0.3, 0.3))
    assert found.old_with_old > 0.9
    assert found.new_with_new == pytest.approx(found.old_with_old, abs=0.01)
    assert found.old_gallery_new_probe == pytest.approx(found.false_matches, abs=0.1)


def test_other_dimensions_cannot_be_compared() -> None:
    old, new, pairs, person = made()
    wider = unit(np.concatenate([new, new], axis=1))
    found = measured(old, wider, pairs, person)
    assert not found.comparable
    assert found.reason == "the old model's embeddings have 16 dimensions, the new one's 32"
    assert [getattr(found, key) for key in (*MIXED, "false_matches", "gallery_still_matched")] == [None] * 5
    whole = measured(old, new, pairs, person)
    assert found.new_with_new == pytest.approx(whole.new_with_new)


def test_pairs_of_people_with_one_image_each_tell_nothing_of_the_gallery() -> None:
    """A user's pairs may show one person under two names."""
    old, new, _, _ = made()
    pairs = Pairs(np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([True, True, False]))
    found = measured(old[:6], new[:6], pairs, np.arange(6), thresholds=(0.4, 0.4))
    assert found.gallery_still_matched is None
    assert found.people == 4


@pytest.mark.parametrize(("change", "fmr", "stays"), [(0.0, 0.5, True), (0.0, 1e-9, False), (1.5, 0.5, False)])
def test_a_gallery_stays_where_nothing_is_lost(change: float, fmr: float, stays: bool) -> None:
    old, _, pairs, person = made()
    new = unit(old + change * np.random.default_rng(1).normal(size=old.shape))
    found = measured(old, new, pairs, person, thresholds=(0.3, 0.3), fmr=fmr, draws=100)
    assert found.stays is stays
    assert found.false_matches is not None
    assert found.false_matches > 2e-9
    assert not measured(old, np.hstack([new, new]), pairs, person, thresholds=(0.3, 0.3)).stays
