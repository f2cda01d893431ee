"""A set of pairs with the scores that each model gives them, and what is told of it: figures, gains, losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubeface.metrics.mcnemar import forgotten_pairs, paired
from kubeface.metrics.verification import (
    Floats,
    Ints,
    Pairs,
    bootstrap_difference,
    decisions,
    roc_points,
    score_histogram,
    threshold_table,
    verification,
)
from kubeface.models.embeddings import Embeddings


@dataclass(frozen=True)
class PairSet:
    """Pairs of images of one set, as several models score them.

    images, identities: name and person of each image; people: the person's number; folds: fold of each pair, None for
    stratified ones; scores, figures, roc: by model, figures with those of flip test-time augmentation under `flip`.
    """

    name: str
    images: Sequence[str]
    identities: Sequence[str]
    people: Ints
    pairs: Pairs
    folds: Ints | None
    scores: Mapping[str, Floats]
    figures: Mapping[str, dict[str, Any]]
    roc: Mapping[str, dict[str, list[float]]]


def of_embeddings(
    name: str,
    images: Sequence[str],
    identities: Sequence[str],
    people: Ints,
    pairs: Pairs,
    embeddings: Mapping[str, Embeddings],
) -> PairSet:
    """The set from the embeddings of its images, by model."""
    scores = {which: pairs.scores(found.plain()) for which, found in embeddings.items()}
    figures = {
        which: verification(scores[which], pairs.same)
        | {"flip": verification(pairs.scores(found.flipped()), pairs.same)}
        for which, found in embeddings.items()
    }
    roc = {which: roc_points(values, pairs.same) for which, values in scores.items()}
    return PairSet(name, images, identities, people, pairs, None, scores, figures, roc)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: samples of people, seed, share of the samples inside, and the FAR of the TAR."""

    samples: int
    seed: int
    confidence: float
    far: float

    def gain(self, found: PairSet, before: str, after: str) -> dict[str, dict[str, float]]:
        """AUC, TAR and accuracy of two models with the interval of the gain, as `bootstrap_difference`."""
        return bootstrap_difference(
            found.scores[before], found.scores[after], found.pairs, found.people, self.far, self.samples, self.seed,
            self.confidence, found.folds,
        )  # fmt: skip


def tell(evaluation: dict[str, Any], found: PairSet, bootstrap: Bootstrap) -> None:
    """Adds a set to evaluation.json: figures by model, gains, paired decisions, forgotten pairs and histograms."""
    name, same = found.name, found.pairs.same
    for which, figures in found.figures.items():
        evaluation[which][name] = figures
    evaluation["gain"][name] = bootstrap.gain(found, "baseline", "finetuned")
    if "champion" in found.scores:
        evaluation["gain_over_champion"][name] = bootstrap.gain(found, "champion", "finetuned")
    before, after = (decisions(found.scores[which], same, found.folds) for which in ("baseline", "finetuned"))
    evaluation["paired"][name] = paired(same, before[0], after[0])
    evaluation["forgotten"] += forgotten_pairs(
        name, found.scores["baseline"], found.scores["finetuned"], found.pairs, before[1], after[1],
        found.images, found.identities,
    )  # fmt: skip
    evaluation["histograms"][name] = {which: score_histogram(scores, same) for which, scores in found.scores.items()}


def thresholds(found: PairSet) -> list[dict[str, Any]]:
    """Rows of thresholds.csv."""
    return [
        {"set": found.name, "model": which} | row
        for which, scores in found.scores.items()
        for row in threshold_table(scores, found.pairs.same)
    ]
