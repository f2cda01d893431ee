"""Paired bootstrap: how far figures, and the differences of two models, would be others with other images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kubeface.metrics.verification import Floats, Ints, interval, people_draws
from kubeface.runtime.errors import require

Figures = Callable[[Floats], Sequence[float]]  # weights of the images (N) to figures


@dataclass(frozen=True)
class Spread:
    """Figures of a model: as measured (F), and in every draw (draws×F); not a number where a draw tells none."""

    point: Floats
    draws: Floats

    def bounds(self, place: int, confidence: float) -> tuple[float, float] | None:
        """The interval of a figure; None where no draw tells it."""
        return _interval(self.draws[:, place], confidence)


def spread(figures: Figures, units: Ints, samples: int, seed: int) -> Spread:
    """Figures under draws of units with replacement; equal seeds give equal draws, so that two models are paired.

    Args:
        figures: of the images when each counts as often as its weight says.
        units: what is drawn, a number for each image: people, or the images themselves. An image counts as often as
            its unit was drawn.
        samples: draws.
        seed: of the draws.

    Raises:
        KubefaceError: one unit alone, whose interval would have no width.
    """
    _, numbers = np.unique(units, return_inverse=True)
    count = int(numbers.max()) + 1
    require(count >= 2, "what is held out is one image, or one person's: hold out more, intervals need two at least")
    draws = people_draws(count, seed)
    found = [figures(next(draws)[numbers].astype(np.float64)) for _ in range(samples)]
    return Spread(np.array(figures(np.ones(len(units))), np.float64), np.array(found, np.float64))


def gains(before: Spread, after: Spread, names: Sequence[str], confidence: float) -> dict[str, dict[str, float]]:
    """before, after, gain, gain_low and gain_high of each figure; those that cannot be measured are left out."""
    told: dict[str, dict[str, float]] = {}
    for place, name in enumerate(names):
        bounds = _interval(after.draws[:, place] - before.draws[:, place], confidence)
        if bounds and np.isfinite([before.point[place], after.point[place]]).all():
            told[name] = {
                "before": float(before.point[place]),
                "after": float(after.point[place]),
                "gain": float(after.point[place] - before.point[place]),
                "gain_low": bounds[0],
                "gain_high": bounds[1],
            }
    return told


def tell_gains(
    evaluation: dict[str, Any], name: str, spreads: Mapping[str, Spread], metrics: Sequence[str], confidence: float
) -> None:
    """Adds a set's gains over the starting model, and over the promoted one and one from scratch where they are."""
    for key, other in (("gain", "baseline"), ("gain_over_champion", "champion"), ("gain_over_scratch", "scratch")):
        if other in spreads:
            evaluation.setdefault(key, {})[name] = gains(spreads[other], spreads["finetuned"], metrics, confidence)


def _interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    told = values[np.isfinite(values)]
    return interval(told, confidence) if len(told) else None
