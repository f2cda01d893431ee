"""Paired bootstrap of any figures of images: intervals of the figures and of the differences of two models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kubeface.metrics.bootstrap import Bootstrap, interval, people_draws
from kubeface.metrics.figures import Gain, Gains
from kubeface.metrics.pairs import Floats, Ints
from kubeface.runtime.errors import require

Figures = Callable[[Floats], Sequence[float]]  # weights of the images (N) to figures


@dataclass(frozen=True)
class Spread:
    """Figures of a model: as measured (F), and in every draw (draws×F); NaN where a draw has too few images."""

    point: Floats
    draws: Floats

    def bounds(self, index: int, confidence: float) -> tuple[float, float] | None:
        """The interval of a figure; None where no draw has one."""
        return _interval(self.draws[:, index], confidence)


def spread(figures: Figures, units: Ints, bootstrap: Bootstrap) -> Spread:
    """Figures under draws of units with replacement; equal seeds give equal draws, so that two models are paired.

    Args:
        figures: of the images when each counts as often as its weight says.
        units: what is drawn, a number for each image: people, or the images themselves. An image counts as often as
            its unit was drawn.
        bootstrap: number and seed of the draws.

    Raises:
        KubefaceError: one unit alone, whose interval would have no width.
    """
    _, numbers = np.unique(units, return_inverse=True)
    count = int(numbers.max()) + 1
    require(count >= 2, "what is held out is one image, or one person's: hold out more, intervals need two at least")
    draws = people_draws(count, bootstrap.seed)
    found = [figures(next(draws)[numbers].astype(np.float64)) for _ in range(bootstrap.samples)]
    return Spread(np.array(figures(np.ones(len(units))), np.float64), np.array(found, np.float64))


def gains(before: Spread, after: Spread, names: Sequence[str], confidence: float) -> Gains:
    """The gain of each figure with its interval; figures that cannot be measured are left out."""
    measured: Gains = {}
    for index, name in enumerate(names):
        bounds = _interval(after.draws[:, index] - before.draws[:, index], confidence)
        if bounds and np.isfinite([before.point[index], after.point[index]]).all():
            measured[name] = Gain(
                before=float(before.point[index]),
                after=float(after.point[index]),
                gain=float(after.point[index] - before.point[index]),
                gain_low=bounds[0],
                gain_high=bounds[1],
            )
    return measured


def _interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    return interval(finite, confidence) if len(finite) else None
