"""Split: who is trained on, who is held out."""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kubeface import __version__
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.progress import Progress
from kubeface.split.division import PHOTOGRAPH, Plan, divide_people
from kubeface.split.labelled import divide_labelled
from kubeface.tables.labels import read_people
from kubeface.tables.resolution_pairs import LOW, pair_key, resolution_of
from kubeface.tables.table import Table, TableWriter

RECOMMENDED_IMAGES = 10
PAIR = "pair"  # column of the index while it is made


def split(
    aligned: Path,
    filtered: Path,
    out: Path,
    audited: Path | None = None,
    apply_filter: str = "validation",
    heldout_fraction: float = 0.33,
    val_fraction: float = 0.2,
    val_people_fraction: float = 0.0,
    min_images: int = 2,
    seed: int = 0,
    task: str = "recognition",
    unknown_fraction: float = 0.0,
) -> dict[str, Any]:
    """Divides people into trained and held out, and the trained people's images into train and val.

    For recognition a person is held out when a hash of seed and name falls under the fraction, so that nobody changes
    sides when others are added, and nobody is on both; names that the audit takes for one person stay together. The
    other people's images are divided in the same proportion for each of them (stratified by person), near-duplicates
    together. Where the source came with train/ and val/ folders, that division is kept for the people who are not held
    out; a person given as test is held out, and of others what is given as test is left out.

    For attributes people stand whole in train, val or heldout, by hashes too; for classes each class's images are
    divided among the three, near-duplicates together, and some classes held out whole: the unknown. In both the
    source's division into train, val and test is kept, a part that it does not have is taken out of train, and where
    the groups have a column `person`, that person's images stand on one side whatever their identity (people in several
    classes by a hash of their name).

    A low-resolution image and its sharp partner are one photograph: min_images and the shares of recognition count
    photographs, and the two are never on different sides. Where one of them is left out (by audit or filter, or since
    the source gave it to another part than its partner), the other stays and is an image by itself: a sharp one can be
    reduced, and a low one still shows whose face it is. Held-out people keep both.

    No image is copied: the result is a table of image_id, identity, split (train, val, heldout, excluded) and reason.

    Args:
        aligned: Aligned table.
        filtered: Filter table, of this aligned table.
        out: Folder to write the split table to.
        audited: Audit table; without one, every image stands for itself.
        apply_filter: Where images that the filter rejected are left out; validation (val and held-out
            people), all, or none.
        heldout_fraction: Share of people held out for verification, 0 to less than 1; of classes, share of each one's
            images.
        val_fraction: Share of each trained person's images used for validation, 0 to less than 1; of attributes, share
            of the people who are not held out.
        val_people_fraction: Share of the trained people who are validated on alone, 0 to less than 1: what is chosen on
            strangers holds for strangers.
        min_images: Least photographs of a person after filtering, 2 or more, 10 are recommended; people with fewer are
            excluded. For attributes and classes 1 or more.
        seed: Seed of the division.
        task: recognition, attributes or classes.
        unknown_fraction: Share of classes held out whole, 0 to less than 1, to see whether the unknown is refused.

    Returns:
        rows_in, rows_out (not excluded), train, val, heldout, rejected, train_identities, heldout_identities.

    Raises:
        KubefaceError: wrong settings, tables that do not belong together, images of few and of many pixels but no
            pair of them, fewer than two people to train on, or fewer than two held-out people where some were asked
            for; of classes, a part without an image.
    """
    plan = Plan(
        apply_filter, heldout_fraction, val_fraction, val_people_fraction, min_images, seed, task, unknown_fraction
    )
    table = Table(aligned, "aligned")
    judged, looked_at = Table(filtered, "filter"), Table(audited, "audit") if audited else None
    index = _index(table, judged, looked_at, task)
    counts: Counter[str] = Counter()
    identities: Counter[str] = Counter()
    people: dict[str, set[str]] = defaultdict(set)
    everybody = few = 0
    divide = divide_people if task == RECOGNITION else divide_labelled
    with (
        TableWriter(out, "split", f"split {__version__}", {"aligned": table.sha256} | plan.told()) as result,
        Progress("split", table.rows) as progress,
    ):
        for found in divide(index, plan):
            parts = set[str]()
            for image_id, part, reason in found.images:
                result.add({"image_id": image_id, "identity": found.identity, "split": part, "reason": reason})
                counts[part] += 1
                parts.add(part)
            identities.update(parts)
            if found.person is not None:
                for part in parts:
                    people[part].add(found.person)
            everybody += 1
            few += 0 < found.photographs < RECOMMENDED_IMAGES
            progress.advance(len(found.images))
        both = people["heldout"] & (people["train"] | people["val"])
        require(not both, f"'{next(iter(both), '')}' is both trained on and held out: this is a bug, please report it")
        _check(identities, everybody, plan)
    if few and task != ATTRIBUTES:
        who = "classes" if task == CLASSES else "people"
        print(f"split: {few} {who} have fewer than {RECOMMENDED_IMAGES} images; more of each help", file=sys.stderr)
    return {
        "rows_in": table.rows,
        "rows_out": table.rows - counts["excluded"],
        "train": counts["train"],
        "val": counts["val"],
        "heldout": counts["heldout"],
        "rejected": counts["excluded"],
        "train_identities": identities["train"],
        "heldout_identities": identities["heldout"],
    }


def _index(table: Table, filtered: Table, audited: Table | None, task: str) -> pa.Table:
    """What is known of every image, without the images, ordered by identity and image_id."""
    index = table.columns(["image_id", "identity", "given_split"])
    if task != RECOGNITION:
        index = index.append_column("groups person", pa.array(read_people(table), pa.string()))
    for other, names in ((filtered, ["reason"]), (audited, ["reason", "cluster", "person"])):
        if other is None:
            continue
        found = other.columns(["image_id"])["image_id"]  # a column at a time: what is compared is not held
        if not found.equals(index["image_id"]):
            missing = next(iter(set(index["image_id"].to_pylist()) - set(found.to_pylist())), None)
            raise KubefaceError(
                f"{other.folder} says nothing of image {missing} of {table.folder}: run its step on this table"
                if missing
                else f"{other.folder} is of another table than {table.folder}: run its step on this table"
            )
        for name in names:
            index = index.append_column(f"{other.manifest['kind']} {name}", other.columns([name])[name])
    paired = _paired(table, task)
    if paired.any():
        index = index.append_column(PAIR, pa.array(paired))
    index = index.sort_by([("identity", "ascending"), ("image_id", "ascending")])
    if paired.any():
        index = _with_photographs(index)
    pa.default_memory_pool().release_unused()  # what the unsorted columns took
    return index


def _paired(table: Table, task: str) -> NDArray[np.uint64]:
    """The pair that every image belongs to by its name, in stored order; 0 for none."""
    found, low = np.zeros(table.rows, np.uint64), np.zeros(table.rows, np.bool_)
    start = 0
    for rows in table.row_groups(["identity", "source", "groups"]):
        for place, row in enumerate(rows, start):
            if resolution := resolution_of(row["groups"]):
                found[place] = pair_key(row["identity"], row["source"])
                low[place] = resolution == LOW
        start += len(rows)
    few, sharp = found[low], found[~low & (found > 0)]
    require(
        task != RECOGNITION or not (len(few) and len(sharp)) or bool(np.isin(few, sharp).any()),
        f"{table.folder} has low and high images, but no two of one photograph, which the evaluation compares: give "
        "both of a photograph the same file name",
    )
    return found


def _with_photographs(index: pa.Table) -> pa.Table:
    """The ordered index with the pairs by the name that they have: the least image_id of the two."""
    paired, least = index[PAIR].to_numpy(), np.arange(len(index))
    rows = np.flatnonzero(paired)
    _, first, place = np.unique(paired[rows], return_index=True, return_inverse=True)
    least[rows] = rows[first[place]]
    return index.drop_columns(PAIR).append_column(PHOTOGRAPH, index["image_id"].take(pa.array(least)))


def _check(identities: Counter[str], everybody: int, plan: Plan) -> None:
    """Stops where a part has too little to work with, and says which setting to change.

    Args:
        identities: number of people or classes with an image in each part.
        everybody: number of all.
        plan: the settings.
    """
    held, val, least = plan.heldout_fraction, plan.val_fraction, plan.min_images
    who = "classes" if plan.task == CLASSES else "people"
    lower, now = {
        RECOGNITION: ("heldout_fraction, val_people_fraction", f"{held:g}, {plan.val_people_fraction:g}"),
        ATTRIBUTES: ("heldout_fraction, val_fraction", f"{held:g}, {val:g}"),
        CLASSES: ("unknown_fraction", f"{plan.unknown_fraction:g}"),
    }[plan.task]
    require(
        identities["train"] >= 2,
        f"{identities['train']} of {everybody} {who} are left to train on, at least 2 are needed: lower {lower} or "
        f"min_images (now {now} and {least})",
    )
    if plan.task == CLASSES:
        for part, name in (("val", "val_fraction"), ("heldout", "heldout_fraction")):
            require(
                getattr(plan, name) == 0 or identities[part] > 0,
                f"none of {everybody} classes has an image for {part}: give more images of each class that are no "
                f"near-duplicates, or set {name} to 0 (now {getattr(plan, name):g})",
            )
        return
    require(
        held == 0 or identities["heldout"] >= 2,
        f"{identities['heldout']} of {everybody} people are held out, "
        f"{'verification' if plan.task == RECOGNITION else 'the evaluation'} needs at least 2: raise "
        f"heldout_fraction (now {held:g}), use another seed, or set it to 0 to hold out nobody",
    )
    require(
        plan.task == RECOGNITION or val == 0 or identities["val"] > 0,
        f"none of {everybody} people is validated on: raise val_fraction (now {val:g}) or use another seed",
    )
