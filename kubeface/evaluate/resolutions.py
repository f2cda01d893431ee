"""Faces of few pixels: against sharp photographs and against each other, at each size, before and after a training.

What stands for a face of few pixels is either made of its crop, by a degradation `lowres`, or what a camera took, where
the table has the low and the high image of one photograph. Either way a held-out photograph has two views, few pixels
and sharp, and the two views of one photograph are never compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.evaluate.heldout import CLEAN_PREFIX, HeldoutCrops, View
from kubeface.evaluate.pair_sets import Bootstrap, PairSet, of_embeddings
from kubeface.evaluate.probes import CLEAN, MODELS, PROBE_PAIRS
from kubeface.faces.degradation import Degradation, Enlarger
from kubeface.faces.images import RGB
from kubeface.metrics.calibration import threshold_at
from kubeface.metrics.verification import (
    Bools,
    Floats,
    Ints,
    Pairs,
    all_pairs,
    bootstrap_difference,
    interval,
    people_weights,
    supported_fars,
    verification,
)
from kubeface.models.embeddings import Embeddings, Model, Vectors, embed_batch
from kubeface.runtime.progress import Progress
from kubeface.tables.resolution_pairs import enlarged_of, native_side
from kubeface.tables.table import Table

CROSS = "heldout_cross"
BICUBIC = "bicubic"  # the starting model on crops that no network enlarged
Batches = Iterator[tuple[list[str], list[RGB], list[RGB]]]  # ids, sharp crops, crops of few pixels


def cross_set(crops: HeldoutCrops, most: int, seed: int) -> PairSet:
    """Every photograph of few pixels against every other sharp one; at most `most` pairs."""
    both = _both_ways(all_pairs(crops.people, max(1, most // 2), seed))
    count = len(crops.ids)
    pairs = Pairs(both.left, both.right + count, both.same)
    few, sharp = crops.embeddings["heldout"], crops.embeddings["heldout_clean"]
    return of_embeddings(
        CROSS,
        [*crops.ids, *(CLEAN_PREFIX + image_id for image_id in crops.ids)],
        [*crops.identities, *crops.identities],
        np.tile(crops.people, 2),
        pairs,
        {which: _joined(few[which], sharp[which]) for which in few},
    )


def _both_ways(pairs: Pairs) -> Pairs:
    """The pairs and the same ones turned round: the one of few pixels stands on the left."""
    back = pairs.turned()
    return Pairs(
        np.concatenate([pairs.left, back.left]),
        np.concatenate([pairs.right, back.right]),
        np.concatenate([pairs.same, back.same]),
    )


def _joined(one: Embeddings, other: Embeddings) -> Embeddings:
    joined = Embeddings()
    for part in (one, other):
        joined.extend(part)
    return joined


@dataclass(frozen=True)
class Fixed:
    """Thresholds that a system in use has set: the starting model's on sharp photographs, without and with flip, for a
    false match rate."""

    fmr: float
    plain: float
    flipped: float


def fixed_thresholds(crops: HeldoutCrops, compared: Pairs, fmr: float) -> Fixed:
    """The starting model's thresholds on the sharp photographs of held-out people."""
    sharp = crops.embeddings["heldout_clean"]["baseline"]
    plain, flipped = (
        threshold_at(compared.scores(vectors), compared.same, fmr) for vectors in (sharp.plain(), sharp.flipped())
    )
    return Fixed(fmr, plain, flipped)


@dataclass(frozen=True)
class Size:
    """Photographs of few pixels of one size.

    name: the side in pixels, or `clean`; images: places among all photographs (N); few: their embeddings by model,
    under BICUBIC those of the starting model on bicubic crops, where others were enlarged by a network.
    """

    name: str
    images: Ints
    few: Mapping[str, Embeddings]


def sides_of(table: Table, ids: Sequence[str]) -> Floats:
    """The side of each crop in pixels of what its camera took, N."""
    wanted = {image_id: place for place, image_id in enumerate(ids)}
    sides = np.zeros(len(ids))
    for rows in table.row_groups(["image_id", "landmarks", "groups"]):
        for row in rows:
            if row["image_id"] in wanted:
                landmarks = np.reshape(row["landmarks"], (5, 2)).astype(np.float64)
                sides[wanted[row["image_id"]]] = native_side(landmarks, enlarged_of(row["groups"]))
    return sides


def embed_sizes(
    models: Mapping[str, Model],
    batches: Batches,
    total: int,
    sizes: Sequence[int],
    enlarger: Enlarger | None,
    sides: Mapping[str, float] | None,
) -> tuple[list[str], Mapping[str, Embeddings], list[Size]]:
    """Embeds photographs at each size.

    Args:
        models: baseline and finetuned.
        batches: of the photographs.
        total: their number.
        sizes: in pixels.
        enlarger: what enlarges few pixels that are made; None for bicubic.
        sides: where cameras took the few pixels, their sides by image_id: each belongs to the nearest size.

    Returns:
        ids in their order, embeddings of the sharp crops by model, and what was found of each size.
    """
    order: list[str] = []
    sharp = {which: Embeddings() for which in MODELS}
    kinds = [*MODELS, *([BICUBIC] if enlarger is not None and sides is None else [])]
    few = {size: {kind: Embeddings() for kind in kinds} for size in sizes}
    places: dict[int, list[int]] = {size: [] for size in sizes}
    with Progress("sizes", total) as progress:
        for ids, clean, taken in batches:
            _embed(models, sharp, np.stack(clean))
            for size in sizes:
                if sides is None:
                    chosen = list(range(len(ids)))
                    made = _reduced(clean, ids, Degradation("lowres", size, enlarger=enlarger))
                    if BICUBIC in kinds:
                        plain = _reduced(clean, ids, Degradation("lowres", size))
                        few[size][BICUBIC].append(*embed_batch(models["baseline"], plain))
                else:
                    chosen = [place for place, i in enumerate(ids) if nearest(sides[i], sizes) == size]
                    made = np.stack([taken[place] for place in chosen]) if chosen else np.empty((0, 1, 1, 3), np.uint8)
                if chosen:
                    _embed(models, few[size], made)
                    places[size] += [len(order) + place for place in chosen]
            order += ids
            progress.advance(len(ids))
    found = [Size(str(size), np.array(places[size], np.int64), few[size]) for size in sizes]
    return order, sharp, [*found, Size(CLEAN, np.arange(len(order)), sharp)]


def nearest(side: float, sizes: Sequence[int]) -> int:
    """The size whose ratio to a side is nearest to 1, the smaller of two."""
    return min(sizes, key=lambda size: abs(np.log(max(side, 1e-6) / size)))


def _reduced(crops: Sequence[RGB], ids: Sequence[str], degradation: Degradation) -> NDArray[np.uint8]:
    return np.stack([degradation(crop, "probe", image_id) for crop, image_id in zip(crops, ids, strict=True)])


def _embed(models: Mapping[str, Model], into: Mapping[str, Embeddings], crops: NDArray[np.uint8]) -> None:
    for which in MODELS:
        into[which].append(*embed_batch(models[which], crops))


def measure_sizes(
    sizes: Sequence[Size], sharp: Mapping[str, Embeddings], people: Ints, intervals: Bootstrap, fixed: Fixed
) -> dict[str, Any]:
    """Figures of each size, before and after.

    Args:
        sizes: of `embed_sizes`.
        sharp: embeddings of all sharp photographs, by model.
        people: the person's number of each.
        intervals: how they are made; its FAR is the one of the TAR, or the least that the pairs tell.
        fixed: the thresholds of a system in use.

    Returns:
        fmr, threshold, threshold_flip: what `fixed` is.
        rows: for each size its name, images, people, probes, rank1 by model, and for `cross` (few pixels against other
        sharp photographs) and `same` (few pixels against each other; of `clean` both are the same) pairs, far, figures
        by model (accuracy of ten folds and its standard error, accuracy_fixed, tmr_fixed and fmr_fixed at the fixed
        threshold, auc, tar, and in flip the same with flip) and gain (auc, tar, accuracy, accuracy_fixed, as
        bootstrap_difference). Where a network enlarged, there are also the model bicubic and gain_over_bicubic.
        left_out: sizes of which there are too few photographs.
    """
    turned = _both_ways(all_pairs(people, PROBE_PAIRS // 2, intervals.seed))
    rows, left_out = [], []
    for size in sizes:
        kinds = {"cross": _of_left(turned, size.images), "same": _within(people, size.images, intervals.seed)}
        if not all(pairs.same.any() and supported_fars(int(np.sum(~pairs.same))) for pairs in kinds.values()):
            left_out.append({"size": size.name, "images": len(size.images)})
            continue
        same = _measured(size, sharp, people, kinds["same"], "same", intervals, fixed)
        clean = size.name == CLEAN
        cross = same if clean else _measured(size, sharp, people, kinds["cross"], "cross", intervals, fixed)
        rows.append(
            {
                "size": size.name,
                "images": len(size.images),
                "people": len(np.unique(people[size.images])),
                "cross": cross,
                "same": same,
            }
            | _rank1(size, sharp, people)
        )
    return {
        "fmr": fixed.fmr,
        "threshold": fixed.plain,
        "threshold_flip": fixed.flipped,
        "rows": rows,
        "left_out": left_out,
    }


def _of_left(pairs: Pairs, images: Ints) -> Pairs:
    """The pairs whose left image is among some."""
    kept = np.isin(pairs.left, images)
    return Pairs(pairs.left[kept], pairs.right[kept], pairs.same[kept])


def _within(people: Ints, images: Ints, seed: int) -> Pairs:
    """Pairs of some of the photographs, by their places among all."""
    own = all_pairs(people[images], PROBE_PAIRS, seed)
    return Pairs(images[own.left], images[own.right], own.same)


def _measured(
    size: Size, sharp: Mapping[str, Embeddings], people: Ints, pairs: Pairs, kind: str, intervals: Bootstrap,
    fixed: Fixed,
) -> dict[str, Any]:  # fmt: skip
    """Figures by model and gains of one kind of pairs."""
    far = max(intervals.far, min(supported_fars(int(np.sum(~pairs.same)))))
    plain, flipped = (
        {which: _scores(size, sharp, len(people), pairs, kind, which, flip) for which in size.few}
        for flip in (False, True)
    )

    after = plain["finetuned"]

    def gain(of: str) -> dict[str, dict[str, float]]:
        found = bootstrap_difference(
            plain[of], after, pairs, people, far, intervals.samples, intervals.seed, intervals.confidence
        )
        return found | {"accuracy_fixed": _fixed_gain(plain[of], after, pairs, people, intervals, fixed.plain)}

    told: dict[str, Any] = {"pairs": len(pairs), "far": far}
    for which in size.few:
        told[which] = _figures(plain[which], pairs.same, far, fixed.plain)
        told[which]["flip"] = _figures(flipped[which], pairs.same, far, fixed.flipped)
    told["gain"] = gain("baseline")
    if BICUBIC in size.few:
        told["gain_over_bicubic"] = gain(BICUBIC)
    return told


def _figures(scores: Floats, same: Bools, far: float, threshold: float) -> dict[str, Any]:
    """What is told of one model's scores of pairs (N)."""
    found, called = verification(scores, same), scores > threshold
    return {
        "accuracy": found["accuracy"],
        "accuracy_standard_error": found["accuracy_standard_error"],
        "accuracy_fixed": float(np.mean(called == same)),
        "tmr_fixed": float(np.mean(called[same])),
        "fmr_fixed": float(np.mean(called[~same])),
        "auc": found["auc"],
        "tar": found["tar_at_far"][f"{far:g}"],
    }


def _fixed_gain(
    before: Floats, after: Floats, pairs: Pairs, people: Ints, intervals: Bootstrap, threshold: float
) -> dict[str, float]:
    """Accuracy at a threshold that stays, before, after and gain with intervals over people."""
    right = np.array([(scores > threshold) == pairs.same for scores in (before, after)], np.float64)
    draws = people_weights(pairs, people, intervals.samples, intervals.seed)
    spread = np.array([right @ weights / weights.sum() for weights in draws])
    point = right.mean(axis=1)
    told = {}
    for key, value, sample in (
        ("before", point[0], spread[:, 0]),
        ("after", point[1], spread[:, 1]),
        ("gain", point[1] - point[0], spread[:, 1] - spread[:, 0]),
    ):
        told[key] = float(value)
        told[f"{key}_low"], told[f"{key}_high"] = interval(sample, intervals.confidence)
    return told


def _scores(
    size: Size, sharp: Mapping[str, Embeddings], total: int, pairs: Pairs, kind: str, which: str, flip: bool
) -> Floats:
    """Cosines of pairs of which the left image has few pixels; the right one is sharp, or has few pixels too."""

    def vectors(found: Embeddings) -> Vectors:
        return found.flipped() if flip else found.plain()

    own = vectors(size.few[which])
    few = np.zeros((total, own.shape[1]), np.float32)
    few[size.images] = own
    return pairs.scores(few, vectors(sharp[_enroller(which)]) if kind == "cross" else None)


def _enroller(which: str) -> str:
    """The model that a sharp photograph is enrolled by."""
    return "baseline" if which == BICUBIC else which


def _rank1(size: Size, sharp: Mapping[str, Embeddings], people: Ints) -> dict[str, Any]:
    """The share of photographs of few pixels whose person comes first in a gallery of one sharp photograph of each.

    The first photograph of each person is enrolled, and no probe.

    Returns:
        probes: how many; rank1: the share by model, None without a probe.
    """
    _, enrolled = np.unique(people, return_index=True)
    probes = ~np.isin(size.images, enrolled)
    wanted = people[size.images[probes]]

    def share(which: str) -> float | None:
        if not len(wanted):
            return None
        gallery = sharp[_enroller(which)].plain()[enrolled]
        found = (size.few[which].plain()[probes] @ gallery.T).argmax(axis=1)
        return float(np.mean(people[enrolled][found] == wanted))

    return {"probes": len(wanted), "rank1": {which: share(which) for which in size.few}}


def views_as(view: View) -> tuple[list[str], list[RGB], list[RGB]]:
    """A batch of held-out photographs as `embed_sizes` takes it."""
    return view.ids, view.sharp, view.few if view.few is not None else view.sharp
