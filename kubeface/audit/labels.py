"""Whose face it is: images unlike the rest of their identity, and identities that look like one person.

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
from numpy.typing import NDArray

from kubeface.audit.collect import Codes, Faces, Ints
from kubeface.audit.embedder import SIZE, Vectors, unit
from kubeface.audit.groups import Groups, rounded

FEWEST_OTHERS = 2  # photographs besides the one that is judged: one alone may be the wrong one itself
MOST_LISTED = 10_000  # pairs of identities: labels that give more are wrong everywhere, and millions fill no list
NEAR = 0.5  # cosine with another's mean that one image in a hundred of CelebA reaches among 200 people
SIMILARITIES = 2**18  # that are in memory at a time where all is compared with all
ROUNDING = 1e-4  # what rounding moves a cosine by, at most


@dataclass(frozen=True)
class Suspect:
    """An image that does not look like the rest of its identity.

    row: of the image; central: the image of the identity that is most like the others; cosine: with the mean of the
    others; like, like_cosine: index of the other identity that it is near, and the cosine with its mean; −1 and 0
    where it is near none.
    """

    row: int
    central: int
    cosine: float
    like: int
    like_cosine: float


@dataclass(frozen=True)
class Alike:
    """Two identities that look like one person: indices, cosine of their means, and their two most similar images."""

    left: int
    right: int
    cosine: float
    rows: tuple[int, int]
    best: float


@dataclass(frozen=True)
class SamePeople:
    """Identities that look like one person.

    person: the least index of the identities that look like the same person, by identity; weaker: whether an identity
    is the one with fewer images in some pair, of two with as many the later name's; count: of pairs; pairs: the
    MOST_LISTED most similar, the most similar first.
    """

    person: Ints
    weaker: NDArray[np.bool_]
    count: int
    pairs: list[Alike]


@dataclass(frozen=True)
class People:
    """The identities' means: unit length (zero where no image counts), the images that count, the central image's row.

    mean: of all embeddings that count.
    """

    centres: Vectors
    counts: Codes
    central: Ints
    mean: Vectors


def judge_people(faces: Faces, cluster: Ints, far_below: float) -> tuple[People, list[Suspect]]:
    """Means of the identities, and the images below a cosine with the mean of the others.

    Only images that the filter keeps count and are judged, since others are unlike for other reasons; of a pair of two
    resolutions the sharp one. Several images of one photograph do not vouch for each other: the mean that an image is
    held against leaves them all out.
    """
    size = len(faces.names)
    centres, counts = np.zeros((size, SIZE), np.float32), np.zeros(size, np.int32)
    central = np.full(size, -1, np.int64)
    found: list[tuple[int, int, float]] = []
    everybody = np.zeros(SIZE)
    counted = faces.judged_by_face
    for person, everything in enumerate(faces.by_person()):
        rows = everything[counted[everything]]
        if not len(rows):
            continue
        vectors = faces.vault.read(rows).astype(np.float64)
        total = vectors.sum(0)
        everybody += total
        centres[person], counts[person] = unit(total), len(rows)
        _, photograph = np.unique(cluster[rows], return_inverse=True)
        own = np.zeros((photograph.max() + 1, SIZE))
        np.add.at(own, photograph, vectors)
        others = unit(total - own[photograph])
        cosines = rounded(np.einsum("nd,nd->n", vectors, others))
        central[person] = rows[cosines.argmax()]
        if len(own) > FEWEST_OTHERS:
            far = np.flatnonzero(cosines < far_below)
            found += [(int(rows[place]), person, float(cosines[place])) for place in far]
    people = People(centres, counts, central, np.asarray(everybody / max(1, counts.sum()), np.float32))
    return people, _suspects(faces, people, found)


def _suspects(faces: Faces, people: People, found: list[tuple[int, int, float]]) -> list[Suspect]:
    """What was found, the least similar first, with the identity that each image is near."""
    suspects = []
    size = max(1, SIMILARITIES // len(people.centres))
    for start in range(0, len(found), size):
        block = found[start : start + size]
        likeness = faces.vault.read(np.array([row for row, _, _ in block])) @ people.centres.T
        likeness[np.arange(len(block)), [person for _, person, _ in block]] = -1
        for (row, person, cosine), line in zip(block, rounded(likeness), strict=True):
            near = int(line.argmax())
            like, like_cosine = (near, float(line[near])) if line[near] >= NEAR else (-1, 0.0)
            suspects.append(Suspect(row, int(people.central[person]), cosine, like, like_cosine))
    return sorted(suspects, key=lambda suspect: (suspect.cosine, faces.id_of(suspect.row)))


def alike_people(
    faces: Faces, people: People, alike_above: float, image_above: float, suspects: list[Suspect]
) -> Iterator[Alike]:
    """Pairs of identities with two images each at least whose means are at or above a cosine.

    Their most similar images must be similar too: a mean of many different people is like everybody.
    """
    doubted = {suspect.row for suspect in suspects}
    several = np.flatnonzero(people.counts >= 2)
    counted = faces.judged_by_face
    centres = people.centres if len(several) == len(people.centres) else people.centres[several]
    for left, right, cosine in close(centres, centres, alike_above):
        a, b = int(several[left]), int(several[right])
        if a < b:
            sides = [
                np.array([row for row in faces.rows_of(person) if counted[row] and row not in doubted], np.int64)
                for person in (a, b)
            ]
            rows, best = best_pair(faces, *sides)
            if best >= image_above:
                yield Alike(a, b, cosine, rows, best)


def close(left: Vectors, right: Vectors, above: float) -> Iterator[tuple[int, int, float]]:
    """Places and cosine of all pairs of two sets of unit vectors (N×D, M×D) at or above a cosine.

    All are compared, a block at a time: a hundred thousand identities take minutes, ten thousand a second.
    """
    block = max(1, SIMILARITIES // max(1, len(right)))
    for start in range(0, len(left), block):
        cosines = left[start : start + block] @ right.T
        for row, column in np.argwhere(cosines >= above - ROUNDING):
            cosine = float(rounded(cosines[row, column]))
            if cosine >= above:
                yield start + int(row), int(column), cosine


def best_pair(faces: Faces, left: Ints, right: Ints) -> tuple[tuple[int, int], float]:
    """The two most similar images of two sets of rows, and their cosine; (−1, −1) and −1 where a set is empty."""
    if not len(left) or not len(right):
        return (-1, -1), -1.0
    cosines = rounded(faces.vault.read(left) @ faces.vault.read(right).T)
    a, b = np.unravel_index(int(cosines.argmax()), cosines.shape)
    return (int(left[a]), int(right[b])), float(cosines[a, b])


def same_people(people: People, pairs: Iterable[Alike]) -> SamePeople:
    """What follows from the pairs of identities that look like one person; not all of them are held at a time.

    Chains count: where A looks like B and B like C, all three go by A's name, whether A looks like C or not. Someone
    on both sides of a division does more harm than two people on one.
    """
    groups, weaker, count = Groups(len(people.counts)), np.zeros(len(people.counts), np.bool_), 0
    listed: list[tuple[float, int, int, Alike]] = []
    for pair in pairs:
        count += 1
        groups.join([(pair.left, pair.right)])
        weaker[pair.left if people.counts[pair.left] < people.counts[pair.right] else pair.right] = True
        heapq.heappush(listed, (pair.cosine, -pair.left, -pair.right, pair))
        if len(listed) > MOST_LISTED:
            heapq.heappop(listed)
    return SamePeople(groups.roots(), weaker, count, [pair for *_, pair in sorted(listed, reverse=True)])
