"""Bootstrap over people, paired between models: draws, weights of pairs and images, percentile intervals, gains."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from kubeface.metrics.figures import Gain, Gains
from kubeface.metrics.pairs import Floats, Ints, Pairs
from kubeface.runtime.errors import require


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: draws of people with replacement, their seed, and the share of draws that they hold."""

    samples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def interval(self, values: Floats) -> tuple[float, float]:
        """The central interval of bootstrap values (percentile bounds)."""
        low, high = np.quantile(values, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return float(low), float(high)

    def finite_interval(self, values: Floats) -> tuple[float, float] | None:
        """The interval of the values that are not NaN; None where all are."""
        finite = values[np.isfinite(values)]
        return self.interval(finite) if len(finite) else None

    def weights(self, pairs: Pairs, people: Ints) -> Iterator[Floats]:
        """Bootstrap samples over people as weights of pairs: `samples` times one array (N) that is filled anew.

        People (the person's number of each image) are drawn with replacement; a pair of one person counts as often as
        the person was drawn, a pair of two as the product of their counts. Pairs share images and people, so that
        resampling pairs would make intervals too narrow (Bolle, Ratha and Pankanti, "Error analysis of pattern
        recognition systems: the subsets bootstrap", CVIU 93(1), 2004). Draws that leave none of the genuine or none of
        the impostor pairs are drawn anew, for they have no figures.
        """
        present, numbers = np.unique(people[np.concatenate([pairs.left, pairs.right])], return_inverse=True)
        first, second = np.split(numbers, 2)
        alone = np.flatnonzero(first == second)
        kinds = np.array([kind for kind in (pairs.same, ~pairs.same) if kind.any()], np.float64)
        weights, others = np.empty(len(pairs)), np.empty(len(pairs))  # reused: fresh pages cost more than the sums

        def draws() -> Iterator[Floats]:
            for drawn in people_draws(len(present), self.seed):
                counts = drawn.astype(np.float64)
                counts.take(first, out=weights, mode="clip")  # "clip" spares a buffer; no index is out of range
                counts.take(second, out=others, mode="clip")
                others[alone] = 1.0
                np.multiply(weights, others, out=weights)
                if (kinds @ weights).all():
                    yield weights

        return islice(draws(), self.samples)


def people_draws(people: int, seed: int = 0) -> Iterator[Ints]:
    """Endless bootstrap samples: how often each of `people` people (0…people−1) was drawn, with replacement."""
    random = np.random.default_rng(seed)
    while True:
        yield np.bincount(random.integers(0, people, people), minlength=people)


@dataclass(frozen=True)
class Spread:
    """Figures of a model: as measured (F), and in every draw (draws×F); NaN where a draw has too few images."""

    point: Floats
    draws: Floats


def spread(figures: Callable[[Floats], Sequence[float]], units: Ints, bootstrap: Bootstrap) -> Spread:
    """Figures under draws of units with replacement; equal seeds give equal draws, so that two models are paired.

    Args:
        figures: of the images when each counts as often as its weight says, which is as often as its unit was drawn.
        units: what is drawn, a number for each image: people, or the images themselves.

    Raises:
        KubefaceError: one unit alone, whose interval would have no width.
    """
    _, numbers = np.unique(units, return_inverse=True)
    count = int(numbers.max()) + 1
    require(count >= 2, "what is held out is one image, or one person's: hold out more, intervals need two at least")
    draws = islice(people_draws(count, bootstrap.seed), bootstrap.samples)
    found = [figures(drawn[numbers].astype(np.float64)) for drawn in draws]
    return Spread(np.array(figures(np.ones(len(units))), np.float64), np.array(found, np.float64))


def gains(before: Spread, after: Spread, names: Sequence[str], bootstrap: Bootstrap) -> Gains:
    """The gain of each figure with its interval; figures that cannot be measured are left out."""
    measured: Gains = {}
    for index, name in enumerate(names):
        bounds = bootstrap.finite_interval(after.draws[:, index] - before.draws[:, index])
        start, end = float(before.point[index]), float(after.point[index])
        if bounds and np.isfinite([start, end]).all():
            measured[name] = Gain(before=start, after=end, gain=end - start, gain_low=bounds[0], gain_high=bounds[1])
    return measured
