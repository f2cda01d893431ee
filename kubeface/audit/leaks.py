"""Leaks: people of the training data who are in an evaluation set too, whatever they are called there.

Measured on the 200 people of CelebA at hand, 20 images each, against LFW's 5,749: two of them are in LFW, with a cosine
of the means of 0.79 and 0.73. The other 1.15 million pairs lie below 0.58; the first of them, looked at, are
look-alikes, and 23 of the people have one above 0.5. The cosine of a photograph of LFW with the mean of its person's
others, five at least, is above 0.59 in 99 %. So `leak_above` stands at 0.6.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kubeface.audit.duplicates import REACH, block_keys
from kubeface.audit.evaluation_sets import EvaluationSet
from kubeface.audit.groups import equal_pairs, round_cosines
from kubeface.audit.images import AuditedImages
from kubeface.audit.label_errors import Centres, close_pairs, most_similar
from kubeface.audit.options import AuditOptions


@dataclass(frozen=True)
class Leak:
    """An identity that is in an evaluation set."""

    identity: int
    uri: str  # of the evaluation set
    name: str  # of the person there
    cosine: float  # of the two means
    row: int  # our image that is most like one there, or shows the same photograph
    file: str  # that image
    best: float  # cosine of the two
    same_photograph: bool


def find_leaks(images: AuditedImages, centres: Centres, evaluation: EvaluationSet, options: AuditOptions) -> list[Leak]:
    """Identities that are in an evaluation set, each with the person there that it is most like.

    A low-resolution image is compared by its sharp partner, and without one not at all.
    """
    leaks: dict[int, Leak] = {}
    means = evaluation.means
    for row, file in _same_photographs(images, evaluation, options):
        identity = int(images.identity[row])
        cosine = round(float(centres.means[identity] @ means[evaluation.people[file]]), 4)
        best = round(float((images.embeddings.read(np.array([row]))[0] * evaluation.vectors[file]).sum()), 4)
        if identity not in leaks or best > leaks[identity].best:
            leaks[identity] = _leak(evaluation, identity, int(images.sharp[row]), file, (cosine, best), True)
    for identity, person, cosine in close_pairs(centres.means, means, options.leak_above):
        if identity in leaks and (leaks[identity].same_photograph or leaks[identity].cosine >= cosine):
            continue
        rows = np.unique(images.sharp[images.rows_of(identity)]).astype(np.int64)
        files = np.flatnonzero(evaluation.people == person)
        a, b, best = most_similar(images.embeddings.read(rows), evaluation.vectors[files])
        if best >= options.image_above:
            leaks[identity] = _leak(evaluation, identity, int(rows[a]), int(files[b]), (cosine, best), False)
    return sorted(leaks.values(), key=lambda leak: (-leak.cosine, leak.identity))


def _same_photographs(
    images: AuditedImages, evaluation: EvaluationSet, options: AuditOptions
) -> Iterator[tuple[int, int]]:
    """Rows and indices of the set's files that show the same photograph by hash and embedding."""
    ours, theirs = np.flatnonzero(images.has_embedding), np.flatnonzero(evaluation.vectors.any(1))
    both = np.concatenate([evaluation.phash[theirs], images.phash[ours]])
    for key in block_keys(both):
        for left, right in equal_pairs(key, REACH):
            across = (left < len(theirs)) & (right >= len(theirs))  # equal keys keep their order
            files, rows = theirs[left[across]], ours[right[across] - len(theirs)]
            near = np.bitwise_count(evaluation.phash[files] ^ images.phash[rows]) <= options.duplicate_bits
            files, rows = files[near], rows[near]
            cosines = np.einsum("nd,nd->n", evaluation.vectors[files], images.embeddings.read(rows))
            same = round_cosines(cosines) >= options.duplicate_cosine
            yield from zip(rows[same].tolist(), files[same].tolist(), strict=True)


def _leak(
    evaluation: EvaluationSet, identity: int, row: int, file: int, cosines: tuple[float, float], same: bool
) -> Leak:
    """A leak; `cosines` are those of the means and of the images."""
    name = evaluation.names[evaluation.people[file]]
    return Leak(identity, evaluation.uri, name, cosines[0], row, evaluation.files[file], cosines[1], same)
