"""Duplicates: images of the same photograph, with the same bytes, or saved again, smaller, or cut.

Two images are one photograph when their perceptual hashes differ in at most 3 bits and the cosine of their embeddings
is 0.7 or more, or when it is 0.97 or more alone. Measured on 150 photographs of CelebA, each changed and held against
itself, that finds: JPEG at quality 90 or 50 all, at 20 93 %; half the size 93 %, a third 80 %, half the size at quality
50 73 %, twice the size 99 %; brighter 95 %; a strip cut off two sides 97 %, 3 % off all four 66 %, 10 % 50 %.
A cut changes the hash by 8 to 30 bits, so that only the cosine finds it.

Of CelebA's 50,000 pairs of different photographs of one person 31 count as one, and they are: the data set has them
twice. Among its 8.8 million pairs across people one is within 6 bits, and is a photograph under two names.
The hardest known are series before a plain background: 24 of ORL's 1,800 pairs are taken for one (8 by hash, 16 by the
cosine). That keeps them on one side of a division, no more, unless duplicates are dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from kubeface.audit.groups import DisjointSets, Flags, Ints, equal_pairs, groups_of_equal, round_cosines
from kubeface.audit.images import RESOLUTION_CODES, AuditedImages, Hashes
from kubeface.audit.options import AuditOptions

BITS = 64
BLOCKS = 6  # of a perceptual hash; two hashes that differ in 3 bits agree in at least 3 of the 6
MOST_BITS = BLOCKS - 3  # a search by 3 whole blocks finds all pairs that differ in no more bits
REACH = 16  # rows with the same key that a hash is compared with
BLOCK_ROWS = 512  # rows of an identity's similarity matrix that are in memory at a time


@dataclass(frozen=True)
class SamePhotograph:
    """When two images show one photograph."""

    bits: int  # their perceptual hashes differ in at most so many bits,
    cosine: float  # and the cosine of their embeddings is at least this,
    same_cosine: float  # or it is at least this, whatever the hashes

    @classmethod
    def of(cls, options: AuditOptions, whole: bool) -> "SamePhotograph":
        """The rule that the options give; for whole photographs, which have no embeddings, hashes alone decide."""
        cosines = (-1.0, 2.0) if whole else (options.duplicate_cosine, options.same_cosine)
        return cls(options.duplicate_bits, *cosines)


@dataclass(frozen=True)
class Duplicates:
    """Clusters of images of one photograph."""

    cluster: Ints  # by row the row that names its cluster, the one with the least image_id
    two_names: Flags  # by row whether several identities have its photograph


def find_duplicates(images: AuditedImages, rule: SamePhotograph) -> Duplicates:
    """Puts images of one photograph into one cluster, and the two of a resolution pair too.

    Within an identity all pairs are compared, across identities those with equal bytes or with hashes that differ in
    few bits. Of a resolution pair the sharp image is compared; a low-resolution image without one by its bytes alone.
    """
    sets = DisjointSets(len(images))
    for rows in images.by_identity():
        for left, right in _within_identity(images, rows, rule):
            sets.join_rows(rows[left], rows[right])
    for left, right in equal_pairs(images.content, 1):
        sets.join_rows(left, right)
    for left, right in _across_identities(images, rule):
        sets.join_rows(left, right)
    paired = np.flatnonzero(images.pair)
    for left, right in equal_pairs(images.pair[paired], 1):
        sets.join_rows(paired[left], paired[right])
    roots = sets.roots()
    cluster = np.arange(len(roots))
    for group in groups_of_equal(roots):
        cluster[group] = min(group.tolist(), key=images.id_of)
    least, most = np.full(len(roots), len(images.names), np.int32), np.full(len(roots), -1, np.int32)
    np.minimum.at(least, roots, images.identity)
    np.maximum.at(most, roots, images.identity)
    return Duplicates(cluster, np.asarray((least != most)[roots], np.bool_))


def _within_identity(images: AuditedImages, rows: Ints, rule: SamePhotograph) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of indices into one identity's rows that show the same photograph."""
    if len(rows) < 2:
        return
    vectors = images.embeddings.read(rows)
    hashes, embedded = images.phash[rows], images.has_embedding[rows]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = round_cosines(vectors[block] @ vectors.T)
        near = np.bitwise_count(hashes[block, None] ^ hashes[None]) <= rule.bits
        same = (near & (cosines >= rule.cosine)) | (cosines >= rule.same_cosine)
        left, right = np.nonzero(same & embedded[block, None] & embedded[None])
        yield left[left + start < right] + start, right[left + start < right]


def _across_identities(images: AuditedImages, rule: SamePhotograph) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows of two identities with hashes that differ in few bits, and embeddings that agree."""
    embedded = np.flatnonzero(images.has_embedding)
    for key in block_keys(images.phash[embedded]):
        for left, right in equal_pairs(key, REACH):
            a, b = embedded[left], embedded[right]
            near = np.bitwise_count(images.phash[a] ^ images.phash[b]) <= min(rule.bits, MOST_BITS)
            across = near & (images.identity[a] != images.identity[b])
            a, b = a[across], b[across]
            for start in range(0, len(a), BLOCK_ROWS):
                first, second = a[start : start + BLOCK_ROWS], b[start : start + BLOCK_ROWS]
                cosines = np.einsum("nd,nd->n", images.embeddings.read(first), images.embeddings.read(second))
                same = round_cosines(cosines) >= rule.cosine
                yield first[same], second[same]


def block_keys(hashes: Hashes) -> Iterator[Hashes]:
    """The hashes with all but three of their blocks set to zero, for each choice of three.

    Two hashes that differ in at most MOST_BITS bits have a key in common. A key has 32 bits, so that chance brings few
    together even among millions, where the 16 bits of the usual four bands would bring many.
    """
    edges = [BITS * number // BLOCKS for number in range(BLOCKS + 1)]
    blocks = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    for chosen in combinations(blocks, 3):
        yield hashes & np.uint64(sum(chosen))


def droppable(images: AuditedImages, cluster: Ints, among: Flags) -> Flags:
    """By row whether `duplicates: drop` leaves it out: all but the best of each cluster, of the rows in `among`.

    The best is one that the filter keeps, with the largest face in pixels of its photograph, and the least image_id
    where that leaves several. Both images of a resolution pair stay, since they are there on purpose: the best is found
    among the sharp images, and of the low ones its partner stays, if there is one.
    """
    dropped = np.zeros(len(images), np.bool_)
    is_low, readable = images.is_low, images.readable

    def rank(row: int) -> tuple[bool, bool, bool, float, str]:
        sharp = images.sharp[row]
        partner_stays = bool(is_low[row] and among[sharp] and not dropped[sharp])
        face_size = float(images.face_size[row])
        return not partner_stays, not readable[row], not images.filter_kept[row], -face_size, images.id_of(row)

    for candidates in (among & ~is_low, among & is_low):
        rows = np.flatnonzero(candidates)
        for members in groups_of_equal((cluster * (1 + len(RESOLUTION_CODES)) + images.resolution)[rows]):
            best = min(rows[members].tolist(), key=rank)
            dropped[rows[members]] = True
            dropped[best] = False
    return dropped


def repeated_photographs(images: AuditedImages, cluster: Ints) -> Iterator[Ints]:
    """The rows of each cluster of several photographs, ascending; a resolution pair is one photograph."""
    return (group for group in groups_of_equal(cluster) if count_photographs(images, group) > 1)


def count_photographs(images: AuditedImages, rows: Ints) -> int:
    """The number of photographs that rows show, where only resolution pairs are known to be one."""
    return len(np.unique(images.sharp[rows]))
