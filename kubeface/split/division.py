"""Division of people for recognition, and what all divisions share."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import pyarrow as pa

from kubeface.runtime.keyed_rng import text_digest
from kubeface.split.options import SplitOptions
from kubeface.tables.table import ROW_GROUP_ROWS

NOT_TRAINED = "no image left to train on"


@dataclass(frozen=True, slots=True)
class IdentitySplit:
    """The division of one identity's images."""

    name: str  # of the identity
    # name of the person that the identity is, whose images are all on one side; None where they need not be
    person: str | None
    # image_id, part (train, val, heldout, excluded) and, where that is excluded, the reason
    images: list[tuple[str, str, str | None]]
    photographs: int  # number of photographs that are not excluded; the two of a resolution pair are one


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the division of an image depends on: a row of the index that `split` builds."""

    image_id: str
    identity: str
    given_split: str | None  # part in the source's own division
    rejected: str | None  # the filter's reason, None where it keeps the image
    dropped: str | None  # the audit's reason, None where it keeps the image
    cluster: str  # name of the near-duplicates that the image belongs to
    person: str  # name of the person that the audit takes the identity for
    photograph: str  # name that it shares with its partner of the other resolution


def unit_hash(seed: int, kind: str, name: str) -> float:
    """A number in [0, 1) that depends on the arguments alone."""
    return int.from_bytes(text_digest(seed, kind, name)[:8], "big") / 2**64


def divide_people(index: pa.Table, options: SplitOptions) -> Iterator[IdentitySplit]:
    """Divides each identity of split's index: held out or validated on as a whole, or divided into train and val."""
    test_people = _given_as_test(index)
    for images in _identities(index):
        person = images[0].person
        yield _divide(images, "heldout" if person in test_people else _whole_part(person, options), options)


def _given_as_test(index: pa.Table) -> set[str]:
    """The people whose images are all given as test."""
    if "test" not in index["given_split"].unique().to_pylist():
        return set()
    test_only: dict[str, bool] = {}
    for images in _identities(index):
        only = all(image.given_split == "test" for image in images)
        test_only[images[0].person] = test_only.get(images[0].person, True) and only
    return {person for person, only in test_only.items() if only}


def _identities(index: pa.Table) -> Iterator[list[ImageFacts]]:
    """The images of each identity, ordered by image_id."""
    batches = index.to_batches(max_chunksize=ROW_GROUP_ROWS)
    rows = (ImageFacts(**row) for batch in batches for row in batch.to_pylist())
    return (list(group) for _, group in groupby(rows, key=attrgetter("identity")))


def _whole_part(person: str, options: SplitOptions) -> str | None:
    """The part that all images of a person go to, None where they are divided."""
    if unit_hash(options.seed, "person", person) < options.heldout_fraction:
        return "heldout"
    # A hash of its own, so that val_people_fraction moves nobody in or out of heldout.
    return "val" if unit_hash(options.seed, "val person", person) < options.val_people_fraction else None


def _divide(images: list[ImageFacts], whole: str | None, options: SplitOptions) -> IdentitySplit:
    """Divides one identity's images; `whole` is the part of all of them, None where they are divided."""
    if whole:
        parts = {image.image_id: whole for image in images}
    elif any(image.given_split for image in images):
        parts = {image.image_id: image.given_split or "train" for image in images}
    else:
        parts = _train_and_val(images, options)
    trained = {image.cluster for image in images if parts[image.image_id] == "train" and not image.dropped}

    def reason_to_exclude(image: ImageFacts) -> str | None:
        part = parts[image.image_id]
        if image.dropped:
            return f"audit: {image.dropped}"
        if part == "test" or (whole == "val" and image.given_split == "test"):
            return "given as test, but the person is trained on"
        if part == "val" and image.cluster in trained:
            return "near-duplicate of a training image"  # in a division that the source came with
        return f"filter: {image.rejected}" if image.rejected and part in options.filtered_parts else None

    reasons = {image.image_id: reason_to_exclude(image) for image in images}
    if photographs(image for image in images if not reasons[image.image_id]) < options.min_images:
        reasons = {image_id: reason or too_few_reason(options) for image_id, reason in reasons.items()}
    elif not whole and not any(parts[image_id] == "train" and not reason for image_id, reason in reasons.items()):
        reasons = {image_id: reason or NOT_TRAINED for image_id, reason in reasons.items()}
    rows = [(image_id, "excluded" if reason else parts[image_id], reason) for image_id, reason in reasons.items()]
    remaining = photographs(image for image in images if not reasons[image.image_id])
    return IdentitySplit(images[0].identity, images[0].person, rows, remaining)


def photographs(images: Iterable[ImageFacts]) -> int:
    """The number of photographs that the images show."""
    return len({image.photograph for image in images})


def too_few_reason(options: SplitOptions) -> str:
    """Why the images of an identity with few of them are excluded."""
    return f"fewer than {options.min_images} images"


def _train_and_val(images: list[ImageFacts], options: SplitOptions) -> dict[str, str]:
    """The part of each image of an identity, train or val, by image_id.

    At least one photograph is trained on, and at least one validated on where val_fraction is above 0. Near-duplicates
    stay together; an identity that has nothing else is trained on alone. Where the filter counts in val, the first
    image of val is one that it kept, if there is one.
    """
    usable = [image for image in images if not image.dropped]
    count = round(options.val_fraction * photographs(usable))
    if options.val_fraction > 0:
        count = max(1, count)
    clusters: dict[str, list[ImageFacts]] = defaultdict(list)
    for image in usable:
        clusters[image.cluster].append(image)
    ranked = sorted(clusters, key=lambda cluster: unit_hash(options.seed, "image", cluster))
    if options.filtered_parts and ranked:
        kept = (rank for rank, name in enumerate(ranked) if not all(image.rejected for image in clusters[name]))
        ranked.insert(0, ranked.pop(next(kept, 0)))
    validated = set[str]()
    for name in ranked[: len(ranked) - 1]:
        size = photographs(clusters[name])
        count -= size
        if count <= -size or (count < 0 and validated):
            break
        validated.add(name)
    return {image.image_id: "val" if image.cluster in validated and not image.dropped else "train" for image in images}
