"""Low-resolution faces: against sharp images and against each other, at each size, before and after a training.

A low-resolution face is either made of its crop, by a degradation `lowres`, or was taken by a camera, where the table
has the low and the high image of one photograph. Either way a held-out photograph has two views, low resolution and
sharp, and the two views of one photograph are never compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubeface.evaluate.heldout import CLEAN_PREFIX, HeldoutCrops, View
from kubeface.evaluate.pair_sets import PairSet, measure_set
from kubeface.evaluate.probes import CLEAN, MODELS, PROBE_PAIRS
from kubeface.faces.degradation import Degradation, Enlarger
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.calibration import threshold_at
from kubeface.metrics.figures import Gains
from kubeface.metrics.pairs import Bools, Floats, Ints, Pairs, all_pairs
from kubeface.metrics.verification import bootstrap_difference, gain_of, supported_fars, verification
from kubeface.models.embeddings import Embeddings, Model, Vectors, embed_batch
from kubeface.records.recognition_figures import (
    LeftOutSize,
    ResolutionFigures,
    ResolutionPairs,
    ResolutionRow,
    Resolutions,
)
from kubeface.runtime.progress import Progress
from kubeface.tables.resolution_pairs import enlarged_of, native_side
from kubeface.tables.table import Table

CROSS = "heldout_cross"
BICUBIC = "bicubic"  # the starting model on crops that no network enlarged


def cross_set(crops: HeldoutCrops, limit: int, seed: int) -> PairSet:
    """Every low-resolution image with every sharp one of another photograph; at most `limit` pairs."""
    both = _both_ways(all_pairs(crops.people, max(1, limit // 2), seed))
    count = len(crops.ids)
    pairs = Pairs(both.left, both.right + count, both.same)
    joined = {which: Embeddings() for which in crops.embeddings["heldout"]}
    for which, found in joined.items():
        for name in ("heldout", "heldout_clean"):
            found.extend(crops.embeddings[name][which])
    return measure_set(
        CROSS,
        [*crops.ids, *(CLEAN_PREFIX + image_id for image_id in crops.ids)],
        [*crops.identities, *crops.identities],
        np.tile(crops.people, 2),
        pairs,
        joined,
    )


def _both_ways(pairs: Pairs) -> Pairs:
    """The pairs and the same ones swapped, so that either image is the low-resolution one, on the left."""
    back = pairs.swapped()
    return Pairs(
        np.concatenate([pairs.left, back.left]),
        np.concatenate([pairs.right, back.right]),
        np.concatenate([pairs.same, back.same]),
    )


@dataclass(frozen=True)
class FixedThresholds:
    """Thresholds of a system in use, without and with flip: the starting model's on sharp images, for an FMR."""

    fmr: float
    plain: float
    flipped: float


def fixed_thresholds(crops: HeldoutCrops, compared: Pairs, fmr: float) -> FixedThresholds:
    """The starting model's thresholds on the sharp images of held-out people."""
    sharp = crops.embeddings["heldout_clean"]["baseline"]
    plain, flipped = (
        threshold_at(compared.scores(vectors), compared.same, fmr) for vectors in (sharp.plain(), sharp.flipped())
    )
    return FixedThresholds(fmr, plain, flipped)


@dataclass(frozen=True)
class Size:
    """Low-resolution images of one size (or `clean`): indices among all photographs (N), and embeddings by model.

    Under BICUBIC stand those of the starting model on crops enlarged by bicubic interpolation, where a network enlarged
    the others.
    """

    name: str
    images: Ints
    low: Mapping[str, Embeddings]


@dataclass(frozen=True)
class Sized:
    """Photographs, the person's number of each, embeddings of the sharp images by model, and sizes, `clean` last."""

    ids: list[str]
    people: Ints
    sharp: Mapping[str, Embeddings]
    sizes: list[Size]


def native_sides(table: Table, ids: Sequence[str]) -> Floats:
    """The side of each crop in pixels of the photograph as its camera took it, N."""
    index = {image_id: number for number, image_id in enumerate(ids)}
    sides = np.zeros(len(ids))
    for rows in table.row_groups(["image_id", "landmarks", "groups"]):
        for row in rows:
            if row["image_id"] in index:
                landmarks = np.reshape(row["landmarks"], (5, 2)).astype(np.float64)
                sides[index[row["image_id"]]] = native_side(landmarks, enlarged_of(row["groups"]))
    return sides


def embed_sizes(
    models: Mapping[str, Model],
    views: Iterator[View],
    identities: Mapping[str, str],
    sizes: Sequence[int],
    enlarger: Enlarger | None,
    sides: Mapping[str, float] | None,
) -> Sized:
    """Embeds photographs at each size (in pixels) by the starting and the fine-tuned model.

    Args:
        views, identities: the photographs, a batch at a time, and identities by id.
        enlarger: what enlarges low-resolution crops that are made; None for bicubic.
        sides: where cameras took the low-resolution images, their sides by id: each belongs to the nearest size.
    """
    order: list[str] = []
    sharp = {which: Embeddings() for which in MODELS}
    kinds = [*MODELS, *([BICUBIC] if enlarger is not None and sides is None else [])]
    low = {size: {kind: Embeddings() for kind in kinds} for size in sizes}
    members: dict[int, list[int]] = {size: [] for size in sizes}
    with Progress("sizes", len(identities)) as progress:
        for view in views:
            _embed(models, sharp, np.stack(view.sharp))
            for size in sizes:
                if sides is None:
                    chosen = list(range(len(view.ids)))
                    made = _reduced(view, Degradation("lowres", size, enlarger=enlarger))
                    if BICUBIC in kinds:
                        plain = _reduced(view, Degradation("lowres", size))
                        low[size][BICUBIC].append(*embed_batch(models["baseline"], plain))
                else:
                    near = [number for number, i in enumerate(view.ids) if nearest(sides[i], sizes) == size]
                    if not near:
                        continue
                    chosen, made = near, np.stack([(view.low or view.sharp)[number] for number in near])
                _embed(models, low[size], made)
                members[size] += [len(order) + number for number in chosen]
            order += view.ids
            progress.advance(len(view.ids))
    people = np.unique([identities[image_id] for image_id in order], return_inverse=True)[1]
    found = [Size(str(size), np.array(members[size], np.int64), low[size]) for size in sizes]
    return Sized(order, people, sharp, [*found, Size(CLEAN, np.arange(len(order)), sharp)])


def nearest(side: float, sizes: Sequence[int]) -> int:
    """The size whose ratio to a side is nearest to 1, the smaller of two."""
    return min(sizes, key=lambda size: abs(np.log(max(side, 1e-6) / size)))


def _reduced(view: View, degradation: Degradation) -> NDArray[np.uint8]:
    return np.stack([degradation(crop, "probe", i) for crop, i in zip(view.sharp, view.ids, strict=True)])


def _embed(models: Mapping[str, Model], into: Mapping[str, Embeddings], crops: NDArray[np.uint8]) -> None:
    for which in MODELS:
        into[which].append(*embed_batch(models[which], crops))


def measure_sizes(sized: Sized, far: float, bootstrap: Bootstrap, fixed: FixedThresholds) -> Resolutions:
    """Figures of each size, before and after.

    Args:
        far: false accept rate of the TAR; the least that the pairs support where that is larger.
        bootstrap: how the intervals are made; its seed also draws the pairs.
        fixed: the thresholds of a system in use.

    Returns:
        for each size low-resolution against sharp images of other photographs (cross) and against each other (same; of
        `clean` both are the same), and the sizes with too few images.
    """
    people = sized.people
    crossed = _both_ways(all_pairs(people, PROBE_PAIRS // 2, bootstrap.seed))
    rows, left_out = [], []
    for size in sized.sizes:
        own = all_pairs(people[size.images], PROBE_PAIRS, bootstrap.seed)
        kinds = {
            "cross": crossed.take(np.isin(crossed.left, size.images)),
            "same": Pairs(size.images[own.left], size.images[own.right], own.same),
        }
        if not all(pairs.same.any() and supported_fars(int(np.sum(~pairs.same))) for pairs in kinds.values()):
            left_out.append(LeftOutSize(size=size.name, images=len(size.images)))
            continue
        measure = _Measure(sized, size, far, bootstrap, fixed)
        same = measure.pairs(kinds["same"], with_sharp=False)
        cross = same if size.name == CLEAN else measure.pairs(kinds["cross"], with_sharp=True)
        probes, rank1 = _rank1(sized, size)
        rows.append(
            ResolutionRow(
                size=size.name,
                images=len(size.images),
                people=len(np.unique(people[size.images])),
                probes=probes,
                rank1=rank1,
                cross=cross,
                same=same,
            )
        )
    return Resolutions(fmr=fixed.fmr, threshold=fixed.plain, threshold_flip=fixed.flipped, rows=rows, left_out=left_out)


@dataclass(frozen=True)
class _Measure:
    """Measures the pairs of one size."""

    sized: Sized
    size: Size
    far: float
    bootstrap: Bootstrap
    fixed: FixedThresholds

    def pairs(self, pairs: Pairs, with_sharp: bool) -> ResolutionPairs:
        """Figures by model and gains; the left image is the low-resolution one, the right one sharp or low too."""
        far = max(self.far, min(supported_fars(int(np.sum(~pairs.same)))))
        scores, figures = {}, {}
        for which in self.size.low:
            scores[which] = self._scores(pairs, with_sharp, which, flip=False)
            flip = _figures(self._scores(pairs, with_sharp, which, flip=True), pairs.same, far, self.fixed.flipped)
            plain = _figures(scores[which], pairs.same, far, self.fixed.plain)
            figures[which] = plain.model_copy(update={"flip": flip})
        has_bicubic = BICUBIC in scores
        return ResolutionPairs(
            pairs=len(pairs),
            far=far,
            baseline=figures["baseline"],
            finetuned=figures["finetuned"],
            bicubic=figures.get(BICUBIC),
            gain=self._gain(scores["baseline"], scores["finetuned"], pairs, far),
            gain_over_bicubic=self._gain(scores[BICUBIC], scores["finetuned"], pairs, far) if has_bicubic else None,
        )

    def _scores(self, pairs: Pairs, with_sharp: bool, which: str, flip: bool) -> Floats:
        """Cosines of the pairs (N)."""

        def vectors(found: Embeddings) -> Vectors:
            return found.flipped() if flip else found.plain()

        own = vectors(self.size.low[which])
        low = np.zeros((len(self.sized.people), own.shape[1]), np.float32)
        low[self.size.images] = own
        return pairs.scores(low, vectors(self.sized.sharp[_enroller(which)]) if with_sharp else None)

    def _gain(self, before: Floats, after: Floats, pairs: Pairs, far: float) -> Gains:
        """Also of the accuracy at the fixed threshold."""
        gain = bootstrap_difference(before, after, pairs, self.sized.people, far, self.bootstrap)
        correct = np.array([(scores > self.fixed.plain) == pairs.same for scores in (before, after)], np.float64)
        weights = self.bootstrap.weights(pairs, self.sized.people)
        draws = np.array([correct @ weight / weight.sum() for weight in weights])
        return gain | {"accuracy_fixed": gain_of(correct.mean(axis=1), draws, self.bootstrap)}


def _figures(scores: Floats, same: Bools, far: float, threshold: float) -> ResolutionFigures:
    """Figures of one model's scores of pairs (N)."""
    found, called = verification(scores, same), scores > threshold
    return ResolutionFigures(
        accuracy=found.accuracy,
        accuracy_standard_error=found.accuracy_standard_error,
        accuracy_fixed=float(np.mean(called == same)),
        tmr_fixed=float(np.mean(called[same])),
        fmr_fixed=float(np.mean(called[~same])),
        auc=found.auc,
        tar=found.tar_at_far[f"{far:g}"],
    )


def _enroller(which: str) -> str:
    """The model that a sharp image is enrolled by."""
    return "baseline" if which == BICUBIC else which


def _rank1(sized: Sized, size: Size) -> tuple[int, dict[str, float | None]]:
    """Closed-set identification of low-resolution images in a gallery of one sharp image a person.

    The first photograph of each person is enrolled, and no probe.

    Returns:
        number of probes, and by model the share whose person comes first, None without a probe.
    """
    _, enrolled = np.unique(sized.people, return_index=True)
    probes = ~np.isin(size.images, enrolled)
    wanted = sized.people[size.images[probes]]

    def share(which: str) -> float | None:
        if not len(wanted):
            return None
        gallery = sized.sharp[_enroller(which)].plain()[enrolled]
        best = (size.low[which].plain()[probes] @ gallery.T).argmax(axis=1)
        return float(np.mean(sized.people[enrolled][best] == wanted))

    return len(wanted), {which: share(which) for which in size.low}
