"""Errors by group, against counts made by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeface.evaluate.groups import MIN_GENUINE, group_errors
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.pairs import Floats, Ints, Pairs, all_pairs
from kubeface.records.recognition_figures import ErrorRates, GroupColumn

THRESHOLDS = {"baseline": 0.5, "finetuned": 0.4}


def made(
    seed: int = 0, people: int = 24, images: int = 6
) -> tuple[list[str | None], Pairs, np.ndarray, dict[str, np.ndarray]]:
    """Groups a and b by turns, some images without one; b is harder for the first model."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), images)
    values: list[str | None] = [("a", "b", "a", "b", None)[number % 5] for number in person.tolist()]
    pairs = all_pairs(person, 10**6)
    harder = np.array([value == "b" for value in values])[pairs.left] & pairs.same
    before = 0.25 + 0.4 * pairs.same + 0.12 * random.normal(size=len(pairs)) - 0.1 * harder
    after = 0.2 + 0.4 * pairs.same + 0.12 * random.normal(size=len(pairs))
    return values, pairs, person, {"baseline": before, "finetuned": after}


def errors(
    values: Sequence[str | None], pairs: Pairs, people: Ints, scores: Mapping[str, Floats], fmr: float = 0.01
) -> GroupColumn:
    return group_errors(values, pairs, people, scores, THRESHOLDS, fmr, Bootstrap(200))


def test_rates_are_counted_within_the_group() -> None:
    values, pairs, person, scores = made()
    found = errors(values, pairs, person, scores)
    assert [row.group for row in found.rows] == ["a", "b"]
    for row in found.rows:
        inside = [values[a] == values[b] == row.group for a, b in zip(pairs.left, pairs.right, strict=True)]
        assert row.images == values.count(row.group)
        assert row.people == row.images / 6 == 10
        for model, threshold in THRESHOLDS.items():
            genuine = [s for s, i, t in zip(scores[model], inside, pairs.same, strict=True) if i and t]
            impostors = [s for s, i, t in zip(scores[model], inside, pairs.same, strict=True) if i and not t]
            assert (row.genuine, row.impostor) == (len(genuine), len(impostors))
            assert getattr(row, model).fnmr == pytest.approx(sum(s <= threshold for s in genuine) / len(genuine))
            assert getattr(row, model).fmr == pytest.approx(sum(s > threshold for s in impostors) / len(impostors))
        assert row.baseline.fnmr is not None and row.finetuned.fnmr is not None
        assert row.fnmr_change == pytest.approx(row.finetuned.fnmr - row.baseline.fnmr)
        assert row.fnmr_change_low is not None and row.fnmr_change is not None and row.fnmr_change_high is not None
        assert row.fnmr_change_low < row.fnmr_change < row.fnmr_change_high
    a, b = found.rows
    for model in THRESHOLDS:
        for rate in ("fmr", "fnmr"):
            both = getattr(getattr(a, model), rate), getattr(getattr(b, model), rate)
            assert getattr(found.worst_ratio[model], rate) == max(both) / min(both) >= 1
    worst = [found.worst_ratio[model].fnmr for model in ("baseline", "finetuned")]
    assert worst[0] is not None and worst[1] is not None
    assert worst[0] > worst[1]
    assert b.fnmr_change_high is not None
    assert b.fnmr_change_high < 0


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_order_and_sides_of_pairs_do_not_matter_and_models_turn(seed: int) -> None:
    values, pairs, person, scores = made(seed % 7)
    order = np.random.default_rng(seed).permutation(len(pairs))
    moved = Pairs(pairs.right[order], pairs.left[order], pairs.same[order])
    found = errors(values, pairs, person, scores)
    again = errors(values, moved, person, {model: each[order] for model, each in scores.items()})
    turned = group_errors(
        values,
        pairs,
        person,
        {"baseline": scores["finetuned"], "finetuned": scores["baseline"]},
        {"baseline": THRESHOLDS["finetuned"], "finetuned": THRESHOLDS["baseline"]},
        0.01,
        Bootstrap(200),
    )
    for row, same, other in zip(found.rows, again.rows, turned.rows, strict=True):
        assert row.baseline == same.baseline == other.finetuned
        assert same.fnmr_change_low == pytest.approx(row.fnmr_change_low)
        assert row.fnmr_change is not None and row.fnmr_change_high is not None
        assert other.fnmr_change == pytest.approx(-row.fnmr_change)
        assert other.fnmr_change_low == pytest.approx(-row.fnmr_change_high)
    assert turned.worst_ratio["baseline"] == found.worst_ratio["finetuned"]


def test_separable_scores_have_no_errors_and_no_ratio() -> None:
    values, pairs, person, _ = made()
    scores = np.where(pairs.same, 0.9, 0.1)
    found = errors(values, pairs, person, {"baseline": scores, "finetuned": scores})
    for row in found.rows:
        assert row.baseline == row.finetuned == ErrorRates(fmr=0.0, fnmr=0.0)
        assert row.fnmr_change == row.fnmr_change_low == row.fnmr_change_high == 0.0
    assert found.worst_ratio["baseline"] == ErrorRates(fmr=None, fnmr=None)


def test_too_few_pairs_tell_no_rate() -> None:
    """FMR from three impostor pairs beyond the threshold on, FNMR from MIN_GENUINE genuine pairs on."""
    person = np.repeat(np.arange(2), 6)  # 30 genuine and 36 impostor pairs
    pairs = all_pairs(person, 1000)
    scores = dict.fromkeys(THRESHOLDS, np.linspace(0, 1, len(pairs)))
    assert MIN_GENUINE == 30
    (row,) = errors(["x"] * 12, pairs, person, scores, fmr=3 / 36).rows
    assert None not in (row.baseline.fmr, row.baseline.fnmr)
    (row,) = errors(["x"] * 12, pairs, person, scores, fmr=2.9 / 36).rows
    assert row.baseline.fmr is None
    assert row.baseline.fnmr is not None
    (row,) = errors(["x"] * 11 + [None], pairs, person, scores, fmr=0.1).rows
    assert row.genuine == 25
    assert row.baseline.fmr is not None
    assert row.baseline.fnmr is None
    assert row.fnmr_change is row.fnmr_change_low is row.fnmr_change_high is None


def test_one_person_is_no_group() -> None:
    person = np.repeat([0, 1], [10, 10])
    pairs = all_pairs(person, 1000)
    scores = dict.fromkeys(THRESHOLDS, np.linspace(0, 1, len(pairs)))
    found = errors(["x"] * 10 + [None] * 10, pairs, person, scores)
    (row,) = found.rows
    assert (row.people, row.genuine, row.impostor) == (1, 45, 0)
    assert row.baseline == ErrorRates(fmr=None, fnmr=None)
    assert found.worst_ratio["finetuned"] == ErrorRates(fmr=None, fnmr=None)


def test_a_column_without_values_has_no_groups() -> None:
    _, pairs, person, scores = made()
    found = errors([None] * len(person), pairs, person, scores)
    assert found.rows == []
    assert found.worst_ratio == dict.fromkeys(THRESHOLDS, ErrorRates(fmr=None, fnmr=None))
