"""The paired bootstrap of figures."""

from collections.abc import Callable

import numpy as np
import pytest

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.intervals import gains, spread
from kubeface.metrics.pairs import Floats

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
    entry = gains(before, after, ["mean"], 0.95)["mean"]
    assert entry.before == pytest.approx(VALUES.mean())
    assert (entry.gain, entry.gain_low, entry.gain_high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_is_that_of_the_mean() -> None:
    found = spread(mean_of(VALUES), np.arange(40), Bootstrap(4000, 0))
    low, high = found.bounds(0, 0.95) or (0, 0)
    error = VALUES.std() / np.sqrt(40)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_people_who_are_alike_widen_the_interval() -> None:
    repeated = np.repeat(VALUES[:10], 4)
    alone = spread(mean_of(repeated), np.arange(40), Bootstrap(1000, 0)).draws.std()
    together = spread(mean_of(repeated), np.repeat(np.arange(10), 4), Bootstrap(1000, 0)).draws.std()
    assert together == pytest.approx(2 * alone, rel=0.15)  # a quarter of the units


def test_what_no_draw_tells_is_left_out() -> None:
    silent = spread(lambda weights: [np.nan, float(weights[0])], np.arange(5), Bootstrap(30, 0))
    assert silent.bounds(0, 0.95) is None
    assert list(gains(silent, silent, ["never", "always"], 0.95)) == ["always"]
