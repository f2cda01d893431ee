"""Bootstrap over people: draws, weights of pairs, and percentile intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from kubeface.metrics.pairs import Floats, Ints, Pairs


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Args:
        samples: draws of people with replacement.
        seed: of the draws; equal seeds give equal draws.
        confidence: share of the draws that lie inside an interval.
    """

    samples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def interval(self, values: Floats) -> tuple[float, float]:
        """The central interval of bootstrap values (percentile bounds)."""
        return interval(values, self.confidence)

    def weights(self, pairs: Pairs, people: Ints) -> Iterator[Floats]:
        """Weights of the pairs in each draw, see `people_weights`."""
        return people_weights(pairs, people, self.samples, self.seed)


def people_draws(people: int, seed: int = 0) -> Iterator[Ints]:
    """Endless bootstrap samples: how often each of `people` people (0…people−1) was drawn, with replacement."""
    random = np.random.default_rng(seed)
    while True:
        yield np.bincount(random.integers(0, people, people), minlength=people)


def people_weights(pairs: Pairs, people: Ints, samples: int, seed: int = 0) -> Iterator[Floats]:
    """Bootstrap samples over people as weights of pairs: `samples` times one array (N) that is filled anew.

    People are drawn with replacement; a pair of one person counts as often as the person was drawn, a pair
    of two as the product of their counts. Pairs share images and people, so that resampling pairs would make
    intervals too narrow (Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the
    subsets bootstrap", CVIU 93(1), 2004). Draws that leave none of the genuine or none of the impostor pairs
    are drawn anew, for they have no figures.

    Args:
        people: the person's number of each image.
    """
    present, numbers = np.unique(people[np.concatenate([pairs.left, pairs.right])], return_inverse=True)
    first, second = np.split(numbers, 2)
    alone = np.flatnonzero(first == second)
    kinds = np.array([kind for kind in (pairs.same, ~pairs.same) if kind.any()], np.float64)
    weights, others = np.empty(len(pairs)), np.empty(len(pairs))  # reused: fresh pages cost more than the sums

    def draws() -> Iterator[Floats]:
        for drawn in people_draws(len(present), seed):
            counts = drawn.astype(np.float64)
            counts.take(first, out=weights, mode="clip")  # "clip" spares a buffer; no index is out of range
            counts.take(second, out=others, mode="clip")
            others[alone] = 1.0
            np.multiply(weights, others, out=weights)
            if (kinds @ weights).all():
                yield weights

    return islice(draws(), samples)


def interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The central interval that holds this share of bootstrap values (percentile bounds)."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
