"""How people are divided for recognition, and what all divisions share."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from kubeface.records.tasks import CLASSES, RECOGNITION, require_task
from kubeface.runtime.errors import require
from kubeface.tables.table import ROW_GROUP_ROWS

# The parts in which the filter's word counts, by apply_filter.
APPLY: dict[str, tuple[str, ...]] = {
    "validation": ("val", "heldout"),
    "all": ("train", "val", "heldout"),
    "none": (),
}
PHOTOGRAPH = "photograph"  # column of the index where images are pairs of two resolutions: what both have in common
TRAINED_ON = "given as test, but the person is trained on"


@dataclass(frozen=True)
class Plan:
    """The parameters of `split` but for the tables, under the same names."""

    apply_filter: str
    heldout_fraction: float
    val_fraction: float
    val_people_fraction: float
    min_images: int
    seed: int
    task: str
    unknown_fraction: float

    def __post_init__(self) -> None:
        require_task(self.task)
        require(self.apply_filter in APPLY, f"apply_filter is '{self.apply_filter}': use one of {', '.join(APPLY)}")
        for name in ("heldout_fraction", "val_fraction", "val_people_fraction", "unknown_fraction"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}: it must lie in 0 to less than 1")
        for name, task in (("val_people_fraction", RECOGNITION), ("unknown_fraction", CLASSES)):
            value = getattr(self, name)
            require(
                value == 0 or self.task == task,
                f"{name} is {value:g}: it is for task {task}, set it to 0 for {self.task}",
            )
        least = 2 if self.task == RECOGNITION else 1
        require(
            self.min_images >= least,
            f"min_images is {self.min_images}: "
            + ("a person needs at least 2 images" if self.task == RECOGNITION else "it must be at least 1"),
        )

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parts in which images that the filter rejected are left out."""
        return APPLY[self.apply_filter]

    def told(self) -> dict[str, Any]:
        """The settings for the manifest."""
        further = {} if self.task == RECOGNITION else {"task": self.task, "unknown_fraction": self.unknown_fraction}
        return {
            "apply_filter": self.apply_filter,
            "heldout_fraction": self.heldout_fraction,
            "val_fraction": self.val_fraction,
            "val_people_fraction": self.val_people_fraction,
            "min_images": self.min_images,
            "seed": self.seed,
        } | further


@dataclass(frozen=True, slots=True)
class Divided:
    """An identity's images: id, part (train, val, heldout, excluded) and, where that is excluded, why.

    person: who the identity is, by one name on one side of the line; None where images of one stand on both.
    photographs: how many are not excluded; a pair of two resolutions is one.
    """

    identity: str
    person: str | None
    images: list[tuple[str, str, str | None]]
    photographs: int


@dataclass(frozen=True, slots=True)
class Face:
    """What the division of an image depends on."""

    image_id: str
    given_split: str | None
    rejected: str | None  # the filter's reason
    dropped: str | None  # the audit's reason
    cluster: str  # the near-duplicates that it belongs to
    photograph: str  # what it has in common with its partner of the other resolution


def unit_hash(seed: int, kind: str, name: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def divide_people(index: pa.Table, plan: Plan) -> Iterator[Divided]:
    """Each identity in turn: held out or validated on whole, or divided into train and val.

    Args:
        index: as `split` makes it, ordered by identity and image_id.
        plan: the settings.
    """
    tested = _given_as_test(index)
    for name, person, faces in _people(index):
        whole = "heldout" if person in tested else _side(person, plan)
        divided = _divide(faces, whole, plan)
        left = photographs(face for face, _, reason in divided if not reason)
        yield Divided(name, person, [(face.image_id, part, reason) for face, part, reason in divided], left)


def _given_as_test(index: pa.Table) -> set[str]:
    """The people whose images are all given as test."""
    if "test" not in index["given_split"].unique().to_pylist():
        return set()
    everything: dict[str, bool] = {}
    for _, person, faces in _people(index):
        only = all(face.given_split == "test" for face in faces)
        everything[person] = everything.get(person, True) and only
    return {person for person, only in everything.items() if only}


def _people(index: pa.Table) -> Iterator[tuple[str, str, list[Face]]]:
    """Each identity in turn: its name, the person it stands for, and the images in the order of their ids."""
    rows = (row for batch in index.to_batches(max_chunksize=ROW_GROUP_ROWS) for row in batch.to_pylist())
    for name, images in groupby(rows, key=itemgetter("identity")):
        found = list(images)
        yield (
            name,
            found[0].get("audit person", name),
            [
                Face(
                    row["image_id"],
                    row["given_split"],
                    row["filter reason"],
                    row.get("audit reason"),
                    row.get("audit cluster", row.get(PHOTOGRAPH, row["image_id"])),
                    row.get(PHOTOGRAPH, row["image_id"]),
                )
                for row in found
            ],
        )


def _side(person: str, plan: Plan) -> str | None:
    """Where all images of a person go, None where they are divided."""
    if unit_hash(plan.seed, "person", person) < plan.heldout_fraction:
        return "heldout"
    # A hash of its own, so that it moves nobody in or out of those who are held out.
    return "val" if unit_hash(plan.seed, "val person", person) < plan.val_people_fraction else None


def _divide(faces: list[Face], whole: str | None, plan: Plan) -> list[tuple[Face, str, str | None]]:
    """One person's images with their split, the same for all where `whole` is given, and the reason where that is
    `excluded`."""
    if whole:
        parts = {face.image_id: whole for face in faces}
    elif any(face.given_split for face in faces):
        parts = {face.image_id: face.given_split or "train" for face in faces}
    else:
        parts = _train_and_val(faces, plan)
    trained = {face.cluster for face in faces if parts[face.image_id] == "train" and not face.dropped}
    reasons = {}
    for face in faces:
        part, reason = parts[face.image_id], None
        if face.dropped:
            reason = f"audit: {face.dropped}"
        elif part == "test" or (whole == "val" and face.given_split == "test"):
            reason = TRAINED_ON
        elif part == "val" and face.cluster in trained:
            reason = "near-duplicate of a training image"  # where the source came divided
        elif face.rejected and part in plan.leaves:
            reason = f"filter: {face.rejected}"
        reasons[face.image_id] = reason
    left = photographs(face for face in faces if not reasons[face.image_id])
    if left < plan.min_images:
        reasons = {image_id: reason or too_few(plan) for image_id, reason in reasons.items()}
    elif not whole and not any(parts[i] == "train" and not reason for i, reason in reasons.items()):
        reasons = {image_id: reason or NOT_TRAINED for image_id, reason in reasons.items()}
    return [
        (face, "excluded" if reasons[face.image_id] else parts[face.image_id], reasons[face.image_id]) for face in faces
    ]


def photographs(faces: Iterable[Face]) -> int:
    """How many photographs the images are of."""
    return len({face.photograph for face in faces})


NOT_TRAINED = "no image left to train on"


def too_few(plan: Plan) -> str:
    """Why the images of an identity with few of them are excluded."""
    return f"fewer than {plan.min_images} images"


def _train_and_val(faces: list[Face], plan: Plan) -> dict[str, str]:
    """At least one image of a person is trained on, and at least one validated on where a fraction is asked for.

    The fraction is of photographs: a pair of two resolutions, which is in one cluster, counts as one.
    Near-duplicates go together; a person whose images are all near-duplicates is trained on alone. Where the filter's
    verdict counts for val, the first of val is an image that it kept, if there is one.
    """
    usable = [face for face in faces if not face.dropped]
    count = round(plan.val_fraction * photographs(usable))
    if plan.val_fraction > 0:
        count = max(1, count)
    clusters: dict[str, list[Face]] = defaultdict(list)
    for face in usable:
        clusters[face.cluster].append(face)
    ranked = sorted(clusters, key=lambda cluster: unit_hash(plan.seed, "image", cluster))
    if plan.leaves and ranked:
        kept = (place for place, name in enumerate(ranked) if not all(face.rejected for face in clusters[name]))
        ranked.insert(0, ranked.pop(next(kept, 0)))
    validated = set[str]()
    for name in ranked[: len(ranked) - 1]:
        size = photographs(clusters[name])
        count -= size
        if count < 0 and validated:
            break
        if count <= -size:
            break
        validated.add(name)
    return {face.image_id: "val" if face.cluster in validated and not face.dropped else "train" for face in faces}
