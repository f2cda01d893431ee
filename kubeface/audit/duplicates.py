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
    """When two images show one photograph.

    Args:
        bits: their perceptual hashes differ in at most so many bits,
        cosine: and the cosine of their embeddings is at least this,
        same_cosine: or it is at least this, whatever the hashes.
    """

    bits: int
    cosine: float
    same_cosine: float

    @classmethod
    def of(cls, options: AuditOptions, whole: bool) -> "SamePhotograph":
        """The rule that the options give; for whole photographs, which have no embeddings, hashes alone decide."""
        cosines = (-1.0, 2.0) if whole else (options.duplicate_cosine, options.same_cosine)
        return cls(options.duplicate_bits, *cosines)


@dataclass(frozen=True)
class Duplicates:
    """Clusters of images of one photograph.

    Args:
        cluster: by row the row that names its cluster, the one with the least image_id.
        two_names: by row whether several identities have its photograph.
    """

    cluster: Ints
    two_names: Flags


def find_duplicates(images: AuditedImages, rule: SamePhotograph) -> Duplicates:
    """Puts images of one photograph into one cluster, and the two of a resolution pair too.

    Resolution pairs are compared by their sharp images: where the photograph of one is under two names, so is
    that of the other. A low-resolution image without a sharp partner is compared by its bytes alone.

    Within an identity all pairs are compared, across identities those with equal bytes or with hashes that differ in
    few bits.
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
    return Duplicates(_named_by_least_id(images, roots), _under_two_names(images, roots))


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


def _named_by_least_id(images: AuditedImages, roots: Ints) -> Ints:
    """Clusters named by the row with the least image_id in place of the least row."""
    named = np.arange(len(roots))
    for cluster in groups_of_equal(roots):
        named[cluster] = min(cluster.tolist(), key=images.id_of)
    return named


def _under_two_names(images: AuditedImages, roots: Ints) -> Flags:
    """By row whether several identities have its photograph."""
    least = np.full(len(images), len(images.names), np.int32)
    most = np.full(len(images), -1, np.int32)
    np.minimum.at(least, roots, images.identity)
    np.maximum.at(most, roots, images.identity)
    return np.asarray((least != most)[roots], np.bool_)


def droppable(images: AuditedImages, cluster: Ints, among: Flags) -> Flags:
    """By row whether `duplicates: drop` leaves it out: all but the best of each cluster, of the rows in `among`.

    The best is one that the filter keeps, with the largest face in pixels of its photograph, and the least image_id
    where that leaves several. Both images of a resolution pair stay, since they are there on purpose: the best is found
    among the sharp images, and of the low ones its partner stays, if there is one.
    """
    dropped = np.zeros(len(images), np.bool_)
    for candidates in (among & ~images.is_low, among & images.is_low):
        rows = np.flatnonzero(candidates)
        for members in groups_of_equal((cluster * (1 + len(RESOLUTION_CODES)) + images.resolution)[rows]):
            group = rows[members]
            sharp = images.sharp[group]
            partner_stays = images.is_low[group] & among[sharp] & ~dropped[sharp]
            ranks = list(
                zip(
                    partner_stays,
                    images.readable[group],
                    images.filter_kept[group],
                    images.face_size[group],
                    strict=True,
                )
            )
            best = [row for row, rank in zip(group.tolist(), ranks, strict=True) if rank == max(ranks)]
            dropped[group] = True
            dropped[min(best, key=images.id_of)] = False
    return dropped


def repeated_photographs(images: AuditedImages, cluster: Ints) -> Iterator[Ints]:
    """The rows of each cluster of several photographs, ascending; a resolution pair is one photograph."""
    return (group for group in groups_of_equal(cluster) if count_photographs(images, group) > 1)


def count_photographs(images: AuditedImages, rows: Ints) -> int:
    """The number of photographs that rows show, where only resolution pairs are known to be one."""
    return len(np.unique(images.sharp[rows]))
