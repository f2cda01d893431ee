"""A set of pairs as several models score them, and what follows: figures, gains, changed decisions, hard pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import (
    ForgottenPair,
    Gains,
    HardPair,
    PairedTest,
    RocPoints,
    ScoreHistogram,
    ThresholdRow,
    VerificationFigures,
)
from kubeface.metrics.mcnemar import forgotten, paired_test
from kubeface.metrics.pairs import Bools, Floats, Ints, Pairs
from kubeface.metrics.verification import (
    bootstrap_difference,
    decisions,
    roc_points,
    score_histogram,
    threshold_table,
    verification,
)
from kubeface.models.embeddings import Embeddings
from kubeface.records.recognition_figures import HardestPairs

HARDEST = 8  # pairs of each kind that are kept as pictures
FORGOTTEN = 12  # pairs that are listed one by one


@dataclass(frozen=True)
class PairSet:
    """Pairs of images (by index) of one set with scores, figures and ROC by model.

    `images`, `identities` and `people` are name, person and person's number of each image; None as `folds` stands for
    stratified ones.
    """

    name: str
    images: Sequence[str]
    identities: Sequence[str]
    people: Ints
    pairs: Pairs
    folds: Ints | None
    scores: Mapping[str, Floats]
    figures: Mapping[str, VerificationFigures]
    roc: Mapping[str, RocPoints]

    def gain(self, before: str, far: float, bootstrap: Bootstrap) -> Gains:
        """Gains of the fine-tuned model over another one; `far` is the false accept rate of the TAR."""
        scores = self.scores[before], self.scores["finetuned"]
        return bootstrap_difference(*scores, self.pairs, self.people, far, bootstrap, self.folds)

    def paired(self) -> PairedTest:
        """How the decisions of the starting and the fine-tuned model differ."""
        (before, _), (after, _) = self._decisions
        return paired_test(self.pairs.same, before, after)

    def forgotten(self) -> list[ForgottenPair]:
        """The pairs that the fine-tuned model no longer decides correctly, the largest fall of the margin first."""
        (_, thresholds_before), (_, thresholds_after) = self._decisions
        before, after = self.scores["baseline"], self.scores["finetuned"]
        lost = forgotten(before, after, self.pairs.same, thresholds_before, thresholds_after)
        return [
            ForgottenPair(
                set=self.name,
                kind="genuine" if self.pairs.same[index] else "impostor",
                threshold_before=float(thresholds_before[index]),
                threshold_after=float(thresholds_after[index]),
                **dict(self._pair(index)),
            )
            for index in lost[:FORGOTTEN].tolist()
        ]

    def histograms(self) -> dict[str, ScoreHistogram]:
        """Scores by model."""
        return {which: score_histogram(scores, self.pairs.same) for which, scores in self.scores.items()}

    def hardest(self) -> HardestPairs:
        """The genuine pairs that the fine-tuned model finds least alike and the impostors it finds most alike."""
        after = self.scores["finetuned"]
        genuine, impostor = np.flatnonzero(self.pairs.same), np.flatnonzero(~self.pairs.same)
        least = genuine[np.argsort(after[genuine], kind="stable")][:HARDEST].tolist()
        most = impostor[np.argsort(-after[impostor], kind="stable")][:HARDEST].tolist()
        return HardestPairs(
            genuine=[self._pair(index) for index in least],
            impostor=[self._pair(index) for index in most],
        )

    def thresholds(self) -> dict[str, list[ThresholdRow]]:
        """Error rates at several thresholds by model."""
        return {which: threshold_table(scores, self.pairs.same) for which, scores in self.scores.items()}

    @cached_property
    def _decisions(self) -> list[tuple[Bools, Floats]]:
        """Decisions and thresholds of the starting and the fine-tuned model."""
        return [decisions(self.scores[which], self.pairs.same, self.folds) for which in ("baseline", "finetuned")]

    def _pair(self, index: int) -> HardPair:
        left, right = self.pairs.left[index], self.pairs.right[index]
        return HardPair(
            left=self.images[left],
            right=self.images[right],
            left_identity=self.identities[left],
            right_identity=self.identities[right],
            before=float(self.scores["baseline"][index]),
            after=float(self.scores["finetuned"][index]),
        )


def measure_set(
    name: str,
    images: Sequence[str],
    identities: Sequence[str],
    people: Ints,
    pairs: Pairs,
    embeddings: Mapping[str, Embeddings],
    folds: Ints | None = None,
) -> PairSet:
    """Scores and figures of a set from the embeddings of its images, by model."""
    scores, figures = {}, {}
    for which, found in embeddings.items():
        scores[which] = pairs.scores(found.plain())
        flip = verification(pairs.scores(found.flipped()), pairs.same, folds)
        figures[which] = verification(scores[which], pairs.same, folds).model_copy(update={"flip": flip})
    roc = {which: roc_points(values, pairs.same) for which, values in scores.items()}
    return PairSet(name, images, identities, people, pairs, folds, scores, figures, roc)


def largest_falls(pairs: Iterable[ForgottenPair]) -> list[ForgottenPair]:
    """The forgotten pairs of several sets whose margin fell furthest, those first."""
    return sorted(pairs, key=lambda pair: pair.margin_fall, reverse=True)[:FORGOTTEN]
