"""The same photograph more than once: the same bytes, or the same picture saved again, smaller, or cut.

Two images are one photograph when their perceptual hashes differ in at most 3 bits and the cosine of their embeddings
is 0.7 or more, or when it is 0.97 or more alone. Measured on 150 photographs of CelebA, each changed and held against
itself, that finds: JPEG at quality 90 or 50 all, at 20 93 %; half the size 93 %, a third 80 %, half the size at quality
50 73 %, twice the size 99 %; brighter 95 %; a strip cut off two sides 97 %, 3 % off all four 66 %, 10 % 50 %.
A cut changes the hash by 8 to 30 bits, so that only the cosine tells.

Of CelebA's 50,000 pairs of different photographs of one person 31 count as one, and they are: the data set has them
twice. Among its 8.8 million pairs across people one is within 6 bits, and is a photograph that stands under two names.
The hardest known are series before a plain background: 24 of ORL's 1,800 pairs are taken for one (8 by hash, 16 by the
cosine). That keeps them on one side of a division, no more, unless duplicates are dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from kubeface.audit.collect import RESOLUTIONS, Faces, Hashes, Ints
from kubeface.audit.groups import Groups, equal_neighbours, rounded, several
from kubeface.tables.resolution_pairs import LOW

BITS = 64
BLOCKS = 6  # that a perceptual hash is cut into; two hashes that differ in 3 bits agree in 3 of the 6 at least
MOST_BITS = BLOCKS - 3  # a search by 3 whole blocks finds all pairs that differ in no more bits
REACH = 16  # neighbours with the same key that a hash is compared with
BLOCK_ROWS = 512  # rows of a person's similarity matrix that are in memory at a time


@dataclass(frozen=True)
class Limits:
    """What makes two images one photograph: few different bits and a cosine, or a cosine that says it alone."""

    bits: int
    cosine: float
    same_cosine: float


HASH_ALONE = -1.0, 2.0  # cosine and same_cosine where there are no embeddings: all agree, and none say it alone


@dataclass(frozen=True)
class Duplicates:
    """The clusters of images, each named by the row whose image_id is least.

    cluster: that row, for every row; two_names: whether a row's photograph stands under several identities.
    """

    cluster: Ints
    two_names: NDArray[np.bool_]


def find_duplicates(faces: Faces, limits: Limits) -> Duplicates:
    """Puts images of one photograph into one cluster, and pairs of a low and a high resolution too.

    Photographs are held against each other by their sharp images: where one of a pair stands under two names, so do
    both. A low image without a sharp one has nothing but its bytes to be known by.

    Within a person all pairs are compared, across people those with equal bytes or hashes that differ in few bits.
    """
    groups = Groups(len(faces))
    for rows in faces.by_person():
        for left, right in _within(faces, rows, limits):
            groups.join(zip(rows[left].tolist(), rows[right].tolist(), strict=True))
    for left, right in equal_neighbours(faces.content, 1):
        groups.join(zip(left.tolist(), right.tolist(), strict=True))
    for left, right in _across(faces, limits):
        groups.join(zip(left.tolist(), right.tolist(), strict=True))
    paired = np.flatnonzero(faces.stem)
    for left, right in equal_neighbours(faces.stem[paired], 1):
        groups.join(zip(paired[left].tolist(), paired[right].tolist(), strict=True))
    roots = groups.roots()
    return Duplicates(_by_least_id(faces, roots), _two_names(faces, roots))


def _within(faces: Faces, rows: Ints, limits: Limits) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of places in one person's rows that show the same photograph."""
    if len(rows) < 2:
        return
    vectors = faces.vault.read(rows)
    hashes, readable = faces.phash[rows], faces.recognisable[rows]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = rounded(vectors[block] @ vectors.T)
        near = np.bitwise_count(hashes[block, None] ^ hashes[None]) <= limits.bits
        same = (near & (cosines >= limits.cosine)) | (cosines >= limits.same_cosine)
        left, right = np.nonzero(same & readable[block, None] & readable[None])
        yield left[left + start < right] + start, right[left + start < right]


def _across(faces: Faces, limits: Limits) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows with perceptual hashes that differ in few bits, and embeddings that agree."""
    readable = np.flatnonzero(faces.recognisable)
    for key in block_keys(faces.phash[readable]):
        for left, right in equal_neighbours(key, REACH):
            a, b = readable[left], readable[right]
            few = np.bitwise_count(faces.phash[a] ^ faces.phash[b]) <= min(limits.bits, MOST_BITS)
            others = few & (faces.people[a] != faces.people[b])
            a, b = a[others], b[others]
            for start in range(0, len(a), BLOCK_ROWS):
                first, second = a[start : start + BLOCK_ROWS], b[start : start + BLOCK_ROWS]
                cosines = np.einsum("nd,nd->n", faces.vault.read(first), faces.vault.read(second))
                same = rounded(cosines) >= limits.cosine
                yield first[same], second[same]


def block_keys(hashes: Hashes) -> Iterator[Hashes]:
    """The hashes with all but three of their blocks blanked, for each choice of three.

    Two hashes that differ in at most MOST_BITS bits have a key in common. A key has 32 bits, so that chance brings few
    together even among millions, where the 16 bits of the usual four bands would bring many.
    """
    edges = [BITS * number // BLOCKS for number in range(BLOCKS + 1)]
    blocks = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    for chosen in combinations(blocks, 3):
        yield hashes & np.uint64(sum(chosen))


def _by_least_id(faces: Faces, roots: Ints) -> Ints:
    """Groups named by the row with the least image_id in place of the least row."""
    named = np.arange(len(roots))
    for group in several(roots):
        named[group] = min(group.tolist(), key=faces.id_of)
    return named


def _two_names(faces: Faces, photographs: Ints) -> NDArray[np.bool_]:
    """Rows whose photograph stands under several identities."""
    least = np.full(len(faces), len(faces.names), np.int32)
    most = np.full(len(faces), -1, np.int32)
    np.minimum.at(least, photographs, faces.people)
    np.maximum.at(most, photographs, faces.people)
    return np.asarray((least != most)[photographs], np.bool_)


def spare(faces: Faces, cluster: Ints, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows that `drop` leaves out: all but the best of each cluster, of those in `among`.

    The best is one that the filter keeps, with the largest face in pixels of its photograph, and the least image_id
    where that leaves several. Of a pair of a low and a high resolution, which are there on purpose, both stay: the best
    is found among the sharp images, and of low ones its partner stays, where that is there.
    """
    spared = np.zeros(len(faces), np.bool_)
    low = faces.resolution == RESOLUTIONS[LOW]
    for resolutions in (among & ~low, among & low):
        place = np.flatnonzero(resolutions)
        for members in several((cluster * (1 + len(RESOLUTIONS)) + faces.resolution)[place]):
            group = place[members]
            of_the_kept = low[group] & among[faces.sharp[group]] & ~spared[faces.sharp[group]]
            worth = list(
                zip(of_the_kept, faces.readable[group], faces.filter_kept[group], faces.face[group], strict=True)
            )
            best = [row for row, value in zip(group.tolist(), worth, strict=True) if value == max(worth)]
            spared[group] = True
            spared[min(best, key=faces.id_of)] = False
    return spared


def repeated(faces: Faces, cluster: Ints) -> Iterator[Ints]:
    """The rows of each cluster of several photographs, rising; a pair of two resolutions is one photograph."""
    return (group for group in several(cluster) if photographs(faces, group) > 1)


def photographs(faces: Faces, rows: Ints) -> int:
    """How many photographs rows show, as far as pairs of two resolutions tell."""
    return len(np.unique(faces.sharp[rows]))
