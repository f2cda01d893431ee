"""The split step: which images are trained on, validated on and held out."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kubeface import __version__
from kubeface.records.record import StepResult
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.progress import Progress
from kubeface.split.division import IdentitySplit, divide_people
from kubeface.split.labelled import divide_labelled
from kubeface.split.options import SplitOptions
from kubeface.tables.labels import read_people
from kubeface.tables.manifest import Settings
from kubeface.tables.resolution_pairs import LOW, pair_key, resolution_of
from kubeface.tables.table import Table, TableWriter

RECOMMENDED_IMAGES = 10


class SplitResult(StepResult):
    """Numbers of images and identities by part; rows_out are the images that are not excluded."""

    train: int
    """Images to train on."""
    val: int
    """Images to validate on."""
    heldout: int
    """Images for the evaluation."""
    rejected: int
    """Images that are excluded."""
    train_identities: int
    """Identities with an image to train on."""
    heldout_identities: int
    """Identities with an image for the evaluation."""


def split(
    aligned: Path,
    filtered: Path,
    out: Path,
    audited: Path | None = None,
    options: SplitOptions = SplitOptions(),
) -> SplitResult:
    """Divides the images into train, val and heldout.

    No image is copied: the result is a table of image_id, identity, split (train, val, heldout, excluded) and reason.
    Near-duplicates, and identities that the audit takes for one person, stay on one side, and no identity changes sides
    when others are added. A division that the source came with is kept. A low-resolution image and its sharp partner
    are one photograph: shares and min_images count photographs, and where one of the two is excluded the other stays.
    The README of the step says how each task is divided.

    Args:
        aligned: Aligned table.
        filtered: Filter table of this aligned table.
        out: Folder to write the split table to.
        audited: Audit table of this aligned table; without one, every image is a photograph of its own.
        options: How the images are divided.

    Raises:
        KubefaceError: tables that do not belong together, low- and high-resolution images without a pair, fewer than
            two people to train on or to hold out, or, for classes, a part without an image.
    """
    table = Table(aligned, "aligned")
    index = _index(table, Table(filtered, "filter"), Table(audited, "audit") if audited else None, options.task)
    divide = divide_people if options.task == RECOGNITION else divide_labelled
    # The manifest of recognition is without the options of the other tasks.
    others = {"task", "unknown_fraction"} if options.task == RECOGNITION else None
    settings: Settings = {"aligned": table.sha256, **options.model_dump(mode="json", exclude=others)}
    tally = _Tally()
    with (
        TableWriter(out, "split", f"split {__version__}", settings) as result,
        Progress("split", table.rows) as progress,
    ):
        for identity in divide(index, options):
            for image_id, part, reason in identity.images:
                result.add({"image_id": image_id, "identity": identity.name, "split": part, "reason": reason})
            tally.add(identity)
            progress.advance(len(identity.images))
        tally.check(options)
    if tally.small and options.task != ATTRIBUTES:
        who = "classes" if options.task == CLASSES else "people"
        few = f"{tally.small} {who} have fewer than {RECOMMENDED_IMAGES} images"
        print(f"split: {few}; more of each help", file=sys.stderr)
    return SplitResult(
        rows_in=table.rows,
        rows_out=table.rows - tally.images["excluded"],
        train=tally.images["train"],
        val=tally.images["val"],
        heldout=tally.images["heldout"],
        rejected=tally.images["excluded"],
        train_identities=tally.identities["train"],
        heldout_identities=tally.identities["heldout"],
    )


class _Tally:
    """Counts over a division."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()  # by part
        self.identities: Counter[str] = Counter()  # with an image in each part
        self.people: dict[str, set[str]] = defaultdict(set)  # names by part, where a name stands for one person
        self.total = self.small = 0  # identities, and those with fewer photographs than recommended

    def add(self, identity: IdentitySplit) -> None:
        parts = {part for _, part, _ in identity.images}
        self.images.update(part for _, part, _ in identity.images)
        self.identities.update(parts)
        if identity.person is not None:
            for part in parts:
                self.people[part].add(identity.person)
        self.total += 1
        self.small += 0 < identity.photographs < RECOMMENDED_IMAGES

    def check(self, options: SplitOptions) -> None:
        """Raises KubefaceError where a part has too little to work with, and says which option to change."""
        both = self.people["heldout"] & (self.people["train"] | self.people["val"])
        require(not both, f"'{next(iter(both), '')}' is both trained on and held out: this is a bug, please report it")
        held, val, least = options.heldout_fraction, options.val_fraction, options.min_images
        who = "classes" if options.task == CLASSES else "people"
        lower, now = {
            RECOGNITION: ("heldout_fraction, val_people_fraction", f"{held:g}, {options.val_people_fraction:g}"),
            ATTRIBUTES: ("heldout_fraction, val_fraction", f"{held:g}, {val:g}"),
            CLASSES: ("unknown_fraction", f"{options.unknown_fraction:g}"),
        }[options.task]
        require(
            self.identities["train"] >= 2,
            f"{self.identities['train']} of {self.total} {who} are left to train on, at least 2 are needed: lower "
            f"{lower} or min_images (now {now} and {least})",
        )
        if options.task == CLASSES:
            for part, name, fraction in (("val", "val_fraction", val), ("heldout", "heldout_fraction", held)):
                require(
                    fraction == 0 or self.identities[part] > 0,
                    f"none of {self.total} classes has an image for {part}: give more images of each class that are no "
                    f"near-duplicates, or set {name} to 0 (now {fraction:g})",
                )
            return
        require(
            held == 0 or self.identities["heldout"] >= 2,
            f"{self.identities['heldout']} of {self.total} people are held out, "
            f"{'verification' if options.task == RECOGNITION else 'the evaluation'} needs at least 2: raise "
            f"heldout_fraction (now {held:g}), use another seed, or set it to 0 to hold out nobody",
        )
        require(
            options.task == RECOGNITION or val == 0 or self.identities["val"] > 0,
            f"none of {self.total} people is validated on: raise val_fraction (now {val:g}) or use another seed",
        )


def _index(table: Table, filtered: Table, audited: Table | None, task: str) -> pa.Table:
    """The columns of ImageFacts, ordered by identity and image_id; for other tasks than recognition `group_person` too.

    Without an audit an identity is its own person, and a photograph its own cluster.
    """
    index = table.columns(["image_id", "identity", "given_split"])
    if task != RECOGNITION:
        index = index.append_column("group_person", pa.array(read_people(table), pa.string()))
    findings = {"reason": "dropped", "cluster": "cluster", "person": "person"}
    for other, names in ((filtered, {"reason": "rejected"}), (audited, findings)):
        if other is None:
            continue
        ids = other.columns(["image_id"])["image_id"]  # one column at a time: what is only compared is not kept
        if not ids.equals(index["image_id"]):
            missing = next(iter(set(index["image_id"].to_pylist()) - set(ids.to_pylist())), None)
            wrong = f"says nothing of image {missing} of" if missing else "is of another table than"
            raise KubefaceError(f"{other.folder} {wrong} {table.folder}: run its step on this table")
        for name, column in names.items():
            index = index.append_column(column, other.columns([name])[name])
    pairs = _resolution_pairs(table, task)
    if pairs.any():
        index = index.append_column("photograph", pa.array(pairs))
    index = index.sort_by([("identity", "ascending"), ("image_id", "ascending")])
    index = _with_photographs(index) if pairs.any() else index.append_column("photograph", index["image_id"])
    if audited is None:
        index = index.append_column("dropped", pa.nulls(len(index), pa.string()))
        index = index.append_column("cluster", index["photograph"]).append_column("person", index["identity"])
    pa.default_memory_pool().release_unused()  # what the unsorted columns took
    return index


def _resolution_pairs(table: Table, task: str) -> NDArray[np.uint64]:
    """The key of the resolution pair that each image belongs to, in stored order; 0 for none."""
    keys, is_low = np.zeros(table.rows, np.uint64), np.zeros(table.rows, np.bool_)
    start = 0
    for rows in table.row_groups(["identity", "source", "groups"]):
        for number, row in enumerate(rows, start):
            if resolution := resolution_of(row["groups"]):
                keys[number] = pair_key(row["identity"], row["source"])
                is_low[number] = resolution == LOW
        start += len(rows)
    low, high = keys[is_low], keys[~is_low & (keys > 0)]
    require(
        task != RECOGNITION or not (len(low) and len(high)) or bool(np.isin(low, high).any()),
        f"{table.folder} has low and high images, but no two of one photograph, which the evaluation compares: give "
        "both of a photograph the same file name",
    )
    return keys


def _with_photographs(index: pa.Table) -> pa.Table:
    """The ordered index with the smallest image_id of a photograph's two images in place of the key of the pair."""
    keys, first_row = index["photograph"].to_numpy(), np.arange(len(index))
    rows = np.flatnonzero(keys)
    _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    first_row[rows] = rows[first[inverse]]
    smallest = index["image_id"].take(pa.array(first_row))
    return index.drop_columns("photograph").append_column("photograph", smallest)
