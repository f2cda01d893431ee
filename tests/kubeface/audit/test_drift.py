"""Drift: the stability index as a distance of histograms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.audit.drift import FEATURES, Feature, make_histogram, measure_drift, stability_index
from kubeface.records.findings import Distributions, Drift

counts = st.lists(st.integers(0, 10_000), min_size=5, max_size=5)


@given(counts, counts)
def test_stability_index_is_symmetric_and_not_negative(before: list[int], after: list[int]) -> None:
    value = stability_index(np.array(before), np.array(after))
    assert value >= 0
    assert value == pytest.approx(stability_index(np.array(after), np.array(before)))


@given(counts, counts, st.integers(1, 1000))
def test_stability_index_depends_on_shares_not_counts(before: list[int], after: list[int], factor: int) -> None:
    one, more = np.array(before), factor * np.array(before)
    assert stability_index(one, more) == pytest.approx(0, abs=1e-9)
    assert stability_index(more, np.array(after)) == pytest.approx(stability_index(one, np.array(after)))


def test_stability_index_by_hand() -> None:
    found = stability_index(np.array([50, 50]), np.array([60, 40]))
    assert found == pytest.approx(0.1 * np.log(0.6 / 0.5) - 0.1 * np.log(0.4 / 0.5))
    assert 1 < stability_index(np.array([100, 0]), np.array([0, 100])) < 100


@given(st.lists(st.floats(-10, 2000), max_size=50))
def test_every_value_is_in_a_bin(values: list[float]) -> None:
    for feature in FEATURES.values():
        entry = make_histogram(feature, np.array(values))
        assert sum(entry.counts) == len(values) and len(entry.counts) == len(feature.cuts) + 1
        assert (len(entry.quantiles) == 0) == (not values)


def test_a_cut_belongs_to_the_bin_above() -> None:
    entry = make_histogram(Feature("x", (1.0, 2.0)), np.array([0.5, 1.0, 1.5, 2.0, 3.0]))
    assert entry.counts == [1, 2, 2]
    assert (entry.quantiles["min"], entry.quantiles["p50"], entry.quantiles["max"]) == (0.5, 1.5, 3.0)


def distributions(scale: float = 1.0) -> Distributions:
    histogram = make_histogram(Feature("x", (1.0, 2.0)), scale * np.array([0.5, 1.5, 1.6, 2.5]))
    return Distributions(features={"x": histogram}, embedding_mean=[0.6, 0.8])


def test_drift_names_the_worst() -> None:
    mean, features = np.array([0.8, 0.6], np.float32), distributions(0.1).features
    found = measure_drift(features, mean, distributions(), 0.5)
    assert found.worst == "x" and found.exceeded and found.compared
    assert found.largest == found.features["x"]
    assert found.features["embedding"] == pytest.approx(1 - 0.96, abs=1e-4)
    assert not measure_drift(features, mean, distributions(), 0.0).exceeded  # 0 is no limit
    same = measure_drift(distributions().features, np.array([0.6, 0.8], np.float32), distributions(), 0.5)
    assert same.features == {"x": 0.0, "embedding": 0.0}
    first = measure_drift(distributions().features, mean, None, 0.5)
    assert first == Drift(compared=False, features={}, worst=None, exceeded=False) and first.largest == 0


def test_other_bins_are_not_compared() -> None:
    known = distributions()
    other = known.model_copy(update={"features": {"x": known.features["x"].model_copy(update={"cuts": [1.0, 3.0]})}})
    drift = measure_drift(known.features, np.array([0.6, 0.8], np.float32), other, 0.5)
    assert drift.features == {"embedding": 0.0}
