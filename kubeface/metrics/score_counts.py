"""Figures over all pairs of a set in flat memory, from counts of scores instead of the scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubeface.metrics.figures import PairFigures
from kubeface.metrics.pairs import Floats, Ints
from kubeface.metrics.verification import equal_error_rate, tar_at_far
from kubeface.runtime.errors import require

BINS = 20_000  # of the cosine from −1 to 1: 0.0001 each
BLOCK_SCORES = 2**20  # scores held at a time


@dataclass(frozen=True)
class ScoreCounts:
    """Numbers of genuine and of impostor pairs by score, in equal bins of the cosine from −1 to 1 (int64 each).

    Scores in one bin are taken as equal, so that every figure is the exact one of scores rounded to a bin.
    """

    genuine: Ints
    impostor: Ints

    def rates(self) -> tuple[Floats, Floats]:
        """FMR and TMR at every border as threshold, the highest border first, from 0 to 1 (bins + 1 each).

        Raises:
            KubefaceError: pairs of one kind only.
        """
        require(
            bool(self.genuine.any() and self.impostor.any()),
            "genuine and impostor pairs are needed: at least two people, one of them with two images",
        )
        false_matches, true_matches = (
            np.append(0, np.cumsum(counts[::-1])) / counts.sum() for counts in (self.impostor, self.genuine)
        )
        return false_matches, true_matches

    def figures(self) -> PairFigures:
        """The figures over every pair; raises KubefaceError where there are pairs of one kind only."""
        false_matches, true_matches = self.rates()
        impostors = int(self.impostor.sum())
        return PairFigures(
            auc=float(np.trapezoid(true_matches, false_matches)),
            eer=equal_error_rate(false_matches, true_matches),
            tar_at_far=tar_at_far(false_matches, true_matches, impostors),
            genuine_pairs=int(self.genuine.sum()),
            impostor_pairs=impostors,
        )


def count_scores(embeddings: NDArray[np.float32], people: Ints, bins: int = BINS) -> ScoreCounts:
    """Scores of every pair of images, counted block by block, from embeddings (images × D) of unit length."""
    size = len(people)
    every, genuine = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    rows = max(1, BLOCK_SCORES // max(size, 1))
    for start in range(0, size, rows):
        block, others = slice(start, start + rows), slice(start, size)
        scores = embeddings[block] @ embeddings[others].T
        same = people[block, None] == people[others]
        later = np.arange(size - start) > np.arange(len(scores))[:, None]  # each pair once, no image with itself
        bin_of = np.clip((scores + 1) * np.float32(bins / 2), 0, bins - 1).astype(np.int32)
        every += np.bincount(bin_of[later], minlength=bins)
        genuine += np.bincount(bin_of[later & same], minlength=bins)
    return ScoreCounts(genuine, every - genuine)
