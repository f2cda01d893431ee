"""Wrong labels: images unlike the rest of their identity, and identities that look like one person.

Measured with SFace on the 200 people of CelebA at hand, 20 images each. The cosine of an image with the mean of
ten others of its person is 0.76 in the middle and below 0.25 for 1.4 % of the images, wrong labels of CelebA among
them; with the mean of another person it is 0.12 in the middle and below 0.25 for 91 %: so that is where
`far_below` stands. The cosine of the means of two people is below 0.49 in 99.9 % of the pairs; that of two halves of
one person's images is above 0.65 in 99.9 % of the cases with eight images in a half, 97 % with five and 75 % with two.
Among the 1.4 million pairs of LFW's 1,680 people with several photographs two are above 0.65: Joseph and Sepp Blatter,
who are one, and a pair whose labels are doubtful. At 0.60 begin the look-alikes, the brothers Bush and the sisters
Williams among the first. The only such pair of CelebA shares a photograph.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kubeface.audit.embeddings import SIZE, Vectors, to_unit_length
from kubeface.audit.groups import Codes, DisjointSets, Flags, Ints, round_cosines
from kubeface.audit.images import AuditedImages

FEWEST_OTHERS = 2  # photographs besides the one that is judged: a single other one may be the wrong one
MOST_LISTED = 10_000  # pairs of identities: where there are more, labels are wrong everywhere
NEAR = 0.5  # cosine with another's mean that one image in a hundred of CelebA reaches among 200 people
SIMILARITIES = 2**18  # that are in memory at a time where all is compared with all
ROUNDING = 1e-4  # the most that rounding changes a cosine by


@dataclass(frozen=True)
class Suspect:
    """An image that does not look like the rest of its identity."""

    row: int  # of the image
    central: int  # row of the identity's image that is most like the others
    cosine: float  # with the mean of the others
    near: int  # index of another identity that the image is near, −1 for none
    near_cosine: float  # with the mean of that identity, 0 for none


@dataclass(frozen=True)
class LookalikePair:
    """Two identities that look like one person."""

    left: int  # indices of the identities
    right: int
    cosine: float  # of their means
    rows: tuple[int, int]  # their two most similar images
    best: float  # cosine of these


@dataclass(frozen=True)
class Lookalikes:
    """Identities that look like one person."""

    person: Ints  # by identity the least index of the identities that look like the same person
    # by identity whether it is the one with fewer images in some pair; of two with as many the later name
    weaker: Flags
    count: int  # of pairs
    pairs: list[LookalikePair]  # the MOST_LISTED most similar, most similar first


@dataclass(frozen=True)
class Centres:
    """The means of the identities, over the images whose faces are compared."""

    means: Vectors  # by identity, unit length, zero where it has no such image
    counts: Codes  # such images by identity
    central: Ints  # by identity the row of the image that is most like the others, −1 for none
    overall: Vectors  # mean of all such embeddings


def find_suspects(images: AuditedImages, cluster: Ints, far_below: float) -> tuple[Centres, list[Suspect]]:
    """Means of the identities, and the images whose cosine with the mean of the others is below a limit.

    Only images that the filter keeps count and are judged, since others are unlike for other reasons; of a resolution
    pair the sharp one. The mean that an image is compared with leaves out all images of its own photograph, by
    `cluster`. Suspects come least similar first.
    """
    size = len(images.names)
    means, counts = np.zeros((size, SIZE), np.float32), np.zeros(size, np.int32)
    central = np.full(size, -1, np.int64)
    far: list[tuple[int, int, float]] = []
    overall = np.zeros(SIZE)
    comparable = images.comparable
    for identity, every_row in enumerate(images.by_identity()):
        rows = every_row[comparable[every_row]]
        if not len(rows):
            continue
        vectors = images.embeddings.read(rows).astype(np.float64)
        total = vectors.sum(0)
        overall += total
        means[identity], counts[identity] = to_unit_length(total), len(rows)
        _, photograph = np.unique(cluster[rows], return_inverse=True)
        own = np.zeros((photograph.max() + 1, SIZE))
        np.add.at(own, photograph, vectors)
        others = to_unit_length(total - own[photograph])
        cosines = round_cosines(np.einsum("nd,nd->n", vectors, others))
        central[identity] = rows[cosines.argmax()]
        if len(own) > FEWEST_OTHERS:
            below = np.flatnonzero(cosines < far_below)
            far += [(int(rows[index]), identity, float(cosines[index])) for index in below]
    centres = Centres(means, counts, central, np.asarray(overall / max(1, counts.sum()), np.float32))
    return centres, _suspects(images, centres, far)


def _suspects(images: AuditedImages, centres: Centres, far: list[tuple[int, int, float]]) -> list[Suspect]:
    """The suspects, given by row, identity and cosine, with the identity that each is near."""
    suspects = []
    size = max(1, SIMILARITIES // len(centres.means))
    for start in range(0, len(far), size):
        block = far[start : start + size]
        cosines = images.embeddings.read(np.array([row for row, _, _ in block])) @ centres.means.T
        cosines[np.arange(len(block)), [identity for _, identity, _ in block]] = -1
        for (row, identity, cosine), line in zip(block, round_cosines(cosines), strict=True):
            nearest = int(line.argmax())
            near, near_cosine = (nearest, float(line[nearest])) if line[nearest] >= NEAR else (-1, 0.0)
            suspects.append(Suspect(row, int(centres.central[identity]), cosine, near, near_cosine))
    return sorted(suspects, key=lambda suspect: (suspect.cosine, images.id_of(suspect.row)))


def lookalike_pairs(
    images: AuditedImages, centres: Centres, suspects: list[Suspect], alike_above: float, image_above: float
) -> Iterator[LookalikePair]:
    """Pairs of identities, with at least two images each, whose means reach a cosine.

    Their most similar images must reach one too, since the mean of many different people is like everybody.
    """
    suspected = {suspect.row for suspect in suspects}
    eligible = np.flatnonzero(centres.counts >= 2)
    comparable = images.comparable
    means = centres.means if len(eligible) == len(centres.means) else centres.means[eligible]
    for left, right, cosine in close_pairs(means, means, alike_above):
        a, b = int(eligible[left]), int(eligible[right])
        if a < b:
            sides = [
                np.array([row for row in images.rows_of(identity) if comparable[row] and row not in suspected])
                for identity in (a, b)
            ]
            if all(map(len, sides)):
                first, second, best = most_similar(*map(images.embeddings.read, sides))
                if best >= image_above:
                    yield LookalikePair(a, b, cosine, (int(sides[0][first]), int(sides[1][second])), best)


def close_pairs(left: Vectors, right: Vectors, above: float) -> Iterator[tuple[int, int, float]]:
    """Indices and cosine of all pairs of two sets of unit vectors (N×D, M×D) at or above a cosine.

    All are compared, a block at a time: a hundred thousand identities take minutes, ten thousand a second.
    """
    block = max(1, SIMILARITIES // max(1, len(right)))
    for start in range(0, len(left), block):
        cosines = left[start : start + block] @ right.T
        for row, column in np.argwhere(cosines >= above - ROUNDING):
            cosine = float(round_cosines(cosines[row, column]))
            if cosine >= above:
                yield start + int(row), int(column), cosine


def most_similar(left: Vectors, right: Vectors) -> tuple[int, int, float]:
    """The indices of the two most similar of two sets of unit vectors (N×D, M×D, none empty), and their cosine."""
    cosines = round_cosines(left @ right.T)
    a, b = np.unravel_index(int(cosines.argmax()), cosines.shape)
    return int(a), int(b), float(cosines[a, b])


def group_lookalikes(centres: Centres, pairs: Iterable[LookalikePair]) -> Lookalikes:
    """The people that follow from pairs of identities, of which not all are held at a time.

    Chains count: where A looks like B and B like C, all three go by A's name, whether A looks like C or not. Someone
    on both sides of a division does more harm than two people on one.
    """
    sets, weaker, count = DisjointSets(len(centres.counts)), np.zeros(len(centres.counts), np.bool_), 0
    listed: list[tuple[float, int, int, LookalikePair]] = []
    for pair in pairs:
        count += 1
        sets.join([(pair.left, pair.right)])
        weaker[pair.left if centres.counts[pair.left] < centres.counts[pair.right] else pair.right] = True
        heapq.heappush(listed, (pair.cosine, -pair.left, -pair.right, pair))
        if len(listed) > MOST_LISTED:
            heapq.heappop(listed)
    return Lookalikes(sets.roots(), weaker, count, [pair for *_, pair in sorted(listed, reverse=True)])
