"""The paired bootstrap of figures."""

import numpy as np
import pytest

from kubeface.metrics.intervals import gains, spread, tell_gains
from kubeface.metrics.verification import Floats

VALUES = np.random.default_rng(0).random(40)


def mean_of(values: Floats):  # type: ignore[no-untyped-def]
    """The weighted mean of the values as the one figure."""
    return lambda weights: [float(weights @ values / weights.sum())]


def test_images_of_a_unit_count_together() -> None:
    units = np.repeat(np.arange(10), 4)
    seen: list[Floats] = []

    def figures(weights: Floats) -> list[float]:
        seen.append(weights)
        return [0.0]

    spread(figures, units, 20, 0)
    *draws, point = seen
    assert (point == 1).all()
    assert len(draws) == 20
    for weights in draws:
        assert weights.sum() == 40
        assert (weights.reshape(10, 4) == weights.reshape(10, 4)[:, :1]).all()


def test_equal_seeds_draw_alike_and_a_constant_gain_has_no_width() -> None:
    units = np.arange(40)
    before, after = (spread(mean_of(VALUES + shift), units, 50, 3) for shift in (0.0, 0.25))
    other = spread(mean_of(VALUES), units, 50, 4)
    assert (before.draws == spread(mean_of(VALUES), units, 50, 3).draws).all()
    assert (before.draws != other.draws).any()
    entry = gains(before, after, ["mean"], 0.95)["mean"]
    assert entry["before"] == pytest.approx(VALUES.mean())
    assert entry == pytest.approx(entry | {"gain": 0.25, "gain_low": 0.25, "gain_high": 0.25})


def test_the_interval_is_that_of_the_mean() -> None:
    found = spread(mean_of(VALUES), np.arange(40), 4000, 0)
    low, high = found.bounds(0, 0.95) or (0, 0)
    error = VALUES.std() / np.sqrt(40)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_people_who_are_alike_widen_the_interval() -> None:
    repeated = np.repeat(VALUES[:10], 4)
    alone = spread(mean_of(repeated), np.arange(40), 1000, 0).draws.std()
    together = spread(mean_of(repeated), np.repeat(np.arange(10), 4), 1000, 0).draws.std()
    assert together == pytest.approx(2 * alone, rel=0.15)  # a quarter of the units


def test_what_no_draw_tells_is_left_out() -> None:
    silent = spread(lambda weights: [np.nan, float(weights[0])], np.arange(5), 30, 0)
    assert silent.bounds(0, 0.95) is None
    assert list(gains(silent, silent, ["never", "always"], 0.95)) == ["always"]


def test_gains_are_told_over_whatever_was_compared() -> None:
    found = spread(mean_of(VALUES), np.arange(40), 20, 0)
    evaluation: dict[str, dict[str, object]] = {"gain": {}, "gain_over_champion": {}}
    tell_gains(evaluation, "heldout", {"baseline": found, "finetuned": found, "scratch": found}, ["mean"], 0.95)
    assert evaluation["gain_over_champion"] == {}
    assert set(evaluation["gain"]["heldout"]) == set(evaluation["gain_over_scratch"]["heldout"]) == {"mean"}  # type: ignore[call-overload]
