"""Split: who is trained on, who is held out."""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.faces.errors import KubefaceError, require
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.table import ROW_GROUP_ROWS, Table, TableWriter

APPLY = ("validation", "all", "none")
RECOMMENDED_IMAGES = 10


@dataclass(frozen=True, slots=True)
class Face:
    """What the division of an image depends on."""

    image_id: str
    given_split: str | None
    rejected: str | None  # the filter's reason
    dropped: str | None  # the audit's reason
    cluster: str  # the near-duplicates that it belongs to


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
) -> dict[str, Any]:
    """Divides people into trained and held out, and the trained people's images into train and val.

    A person is held out when a hash of seed and name falls under the fraction, so that nobody changes
    sides when others are added, and nobody is on both; names that the audit takes for one person stay together. The
    other people's images are divided in the same proportion for each of them (stratified by person), near-duplicates
    together. Where the source came with train/ and val/ folders, that division is kept for the people who are not held
    out. No image is copied: the result is a table of image_id, identity, split (train, val, heldout, excluded) and
    reason.

    Args:
        aligned: Aligned table.
        filtered: Filter table, of this aligned table.
        out: Folder to write the split table to.
        audited: Audit table; without one, every image stands for itself.
        apply_filter: Where images that the filter rejected are left out; validation (val and held-out
            people), all, or none.
        heldout_fraction: Share of people held out for verification, 0 to less than 1.
        val_fraction: Share of each trained person's images used for validation, 0 to less than 1.
        val_people_fraction: Share of the trained people who are validated on alone, 0 to less than 1: what is chosen on
            strangers holds for strangers.
        min_images: Least images of a person after filtering, 2 or more, 10 are recommended; people with fewer are
            excluded.
        seed: Seed of the division.

    Returns:
        rows_in, rows_out (not excluded), train, val, heldout, rejected, train_identities, heldout_identities.

    Raises:
        KubefaceError: wrong settings, tables that do not belong together, fewer than two people to train
            on, or fewer than two held-out people where some were asked for.
    """
    require(apply_filter in APPLY, f"apply_filter is '{apply_filter}': use one of {', '.join(APPLY)}")
    require(0 <= heldout_fraction < 1, f"heldout_fraction is {heldout_fraction}: it must lie in 0 to less than 1")
    require(0 <= val_fraction < 1, f"val_fraction is {val_fraction}: it must lie in 0 to less than 1")
    require(
        0 <= val_people_fraction < 1, f"val_people_fraction is {val_people_fraction}: it must lie in 0 to less than 1"
    )
    require(min_images >= 2, f"min_images is {min_images}: a person needs at least 2 images")
    table = Table(aligned, "aligned")
    index = _index(table, Table(filtered, "filter"), Table(audited, "audit") if audited else None)
    settings = {
        "aligned": table.sha256,
        "apply_filter": apply_filter,
        "heldout_fraction": heldout_fraction,
        "val_fraction": val_fraction,
        "val_people_fraction": val_people_fraction,
        "min_images": min_images,
        "seed": seed,
    }
    counts: Counter[str] = Counter()
    identities: Counter[str] = Counter()
    people: dict[str, set[str]] = defaultdict(set)
    everybody = few = 0
    with (
        TableWriter(out, "split", f"split {VERSION}", settings) as result,
        Progress("split", table.rows) as progress,
    ):
        for name, person, faces in _people(index):
            whole = _side(person, heldout_fraction, val_people_fraction, seed)
            kept, parts = 0, set[str]()
            for face, part, reason in _divide(faces, whole, apply_filter, val_fraction, min_images, seed):
                result.add({"image_id": face.image_id, "identity": name, "split": part, "reason": reason})
                counts[part] += 1
                parts.add(part)
                people[part].add(person)
                kept += not reason
            identities.update(parts)
            everybody += 1
            few += 0 < kept < RECOMMENDED_IMAGES
            progress.advance(len(faces))
        _check(identities, everybody, people, heldout_fraction, val_people_fraction, min_images)
    if few:
        print(f"split: {few} people have fewer than {RECOMMENDED_IMAGES} images; more of each help", file=sys.stderr)
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


def _index(table: Table, filtered: Table, audited: Table | None) -> pa.Table:
    """What is known of every image, without the images, ordered by identity and image_id."""
    index = table.columns(["image_id", "identity", "given_split"])
    for other, names in ((filtered, ["reason"]), (audited, ["reason", "cluster", "person"])):
        if other is None:
            continue
        found = other.columns(["image_id", *names])
        if not found["image_id"].equals(index["image_id"]):
            missing = next(iter(set(index["image_id"].to_pylist()) - set(found["image_id"].to_pylist())), None)
            raise KubefaceError(
                f"{other.folder} says nothing of image {missing} of {table.folder}: run its step on this table"
                if missing
                else f"{other.folder} is of another table than {table.folder}: run its step on this table"
            )
        for name in names:
            index = index.append_column(f"{other.manifest['kind']} {name}", found[name])
    index = index.sort_by([("identity", "ascending"), ("image_id", "ascending")])
    pa.default_memory_pool().release_unused()  # what the unsorted columns took
    return index


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
                    row.get("audit cluster", row["image_id"]),
                )
                for row in found
            ],
        )


def _side(person: str, heldout_fraction: float, val_people_fraction: float, seed: int) -> str | None:
    """Where all images of a person go, None where they are divided."""
    if _unit_hash(seed, "person", person) < heldout_fraction:
        return "heldout"
    # A hash of its own, so that it moves nobody in or out of those who are held out.
    return "val" if _unit_hash(seed, "val person", person) < val_people_fraction else None


def _divide(
    faces: list[Face], whole: str | None, apply_filter: str, val_fraction: float, min_images: int, seed: int
) -> list[tuple[Face, str, str | None]]:
    """One person's images with their split, the same for all where `whole` is given, and the reason where that is
    `excluded`."""
    if whole:
        parts = {face.image_id: whole for face in faces}
    elif any(face.given_split for face in faces):
        parts = {face.image_id: face.given_split or "train" for face in faces}
    else:
        parts = _train_and_val(faces, val_fraction, seed, apply_filter != "none")
    leaves = {"validation": ("val", "heldout"), "all": ("train", "val", "heldout"), "none": ()}[apply_filter]
    trained = {face.cluster for face in faces if parts[face.image_id] == "train" and not face.dropped}
    reasons = {}
    for face in faces:
        part, reason = parts[face.image_id], None
        if face.dropped:
            reason = f"audit: {face.dropped}"
        elif part == "val" and face.cluster in trained:
            reason = "near-duplicate of a training image"  # where the source came divided
        elif face.rejected and part in leaves:
            reason = f"filter: {face.rejected}"
        reasons[face.image_id] = reason
    left = sum(reason is None for reason in reasons.values())
    if left < min_images:
        reasons = {image_id: reason or f"fewer than {min_images} images" for image_id, reason in reasons.items()}
    elif not whole and not any(parts[i] == "train" and not reason for i, reason in reasons.items()):
        reasons = {image_id: reason or "no image left to train on" for image_id, reason in reasons.items()}
    return [
        (face, "excluded" if reasons[face.image_id] else parts[face.image_id], reasons[face.image_id]) for face in faces
    ]


def _train_and_val(faces: list[Face], val_fraction: float, seed: int, filtered: bool) -> dict[str, str]:
    """At least one image of a person is trained on, and at least one validated on where a fraction is asked for.

    Near-duplicates go together; a person whose images are all near-duplicates is trained on alone. Where the filter's
    verdict counts for val, the first of val is an image that it kept, if there is one.
    """
    usable = [face for face in faces if not face.dropped]
    count = round(val_fraction * len(usable))
    if val_fraction > 0:
        count = max(1, count)
    clusters: dict[str, list[Face]] = defaultdict(list)
    for face in usable:
        clusters[face.cluster].append(face)
    ranked = sorted(clusters, key=lambda cluster: _unit_hash(seed, "image", cluster))
    if filtered and ranked:
        kept = (place for place, name in enumerate(ranked) if not all(face.rejected for face in clusters[name]))
        ranked.insert(0, ranked.pop(next(kept, 0)))
    validated = set[str]()
    for name in ranked[: len(ranked) - 1]:
        count -= len(clusters[name])
        if count < 0 and validated:
            break
        if count <= -len(clusters[name]):
            break
        validated.add(name)
    return {face.image_id: "val" if face.cluster in validated and not face.dropped else "train" for face in faces}


def _unit_hash(seed: int, kind: str, name: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check(
    identities: Counter[str],
    everybody: int,
    people: dict[str, set[str]],
    heldout_fraction: float,
    val_people_fraction: float,
    min_images: int,
) -> None:
    both = people["heldout"] & (people["train"] | people["val"])
    require(not both, f"'{next(iter(both), '')}' is both trained on and held out: this is a bug, please report it")
    require(
        identities["train"] >= 2,
        f"{identities['train']} of {everybody} people are left to train on, at least 2 are needed: lower "
        f"heldout_fraction, val_people_fraction or min_images (now {heldout_fraction:g}, {val_people_fraction:g} and "
        f"{min_images})",
    )
    require(
        heldout_fraction == 0 or identities["heldout"] >= 2,
        f"{identities['heldout']} of {everybody} people are held out, verification needs at least 2: raise "
        f"heldout_fraction (now {heldout_fraction:g}), use another seed, or set it to 0 to hold out nobody",
    )
