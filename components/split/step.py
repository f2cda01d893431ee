"""Split: who is trained on, who is held out."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.faces.errors import require
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.table import Table, TableWriter

APPLY = ("validation", "all", "none")


@dataclass(frozen=True)
class Face:
    """What the division of an image depends on."""

    image_id: str
    identity: str
    given_split: str | None
    rejected: str | None  # the filter's reason


def split(
    aligned: Path,
    filtered: Path,
    out: Path,
    apply_filter: str = "validation",
    heldout_fraction: float = 0.33,
    val_fraction: float = 0.2,
    val_people_fraction: float = 0.0,
    min_images: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Divides people into trained and held out, and the trained people's images into train and val.

    A person is held out when a hash of seed and name falls under the fraction, so that nobody changes
    sides when others are added, and nobody is on both. Where the source came with train/ and val/
    folders, that division is kept for the people who are not held out. No image is copied: the result
    is a table of image_id, identity, split (train, val, heldout, excluded) and reason.

    Args:
        aligned: Aligned table.
        filtered: Filter table.
        out: Folder to write the split table to.
        apply_filter: Where images that the filter rejected are left out; validation (val and held-out
            people), all, or none.
        heldout_fraction: Share of people held out for verification, 0 to less than 1.
        val_fraction: Share of each trained person's images used for validation, 0 to less than 1.
        val_people_fraction: Share of the trained people who are validated on alone, 0 to less than 1: what is chosen on
            strangers holds for strangers.
        min_images: Least images of a person after filtering; people with fewer are excluded.
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
    people = _people(table, Table(filtered, "filter"))
    heldout = {name for name in people if _unit_hash(seed, "person", name) < heldout_fraction}
    # A hash of its own, so that it moves nobody in or out of those who are held out.
    validated = {n for n in people if _unit_hash(seed, "val person", n) < val_people_fraction} - heldout
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
    identities: dict[str, set[str]] = defaultdict(set)
    with (
        TableWriter(out, "split", f"split {VERSION}", settings) as result,
        Progress("split", table.rows) as progress,
    ):
        for name in sorted(people):
            whole = "heldout" if name in heldout else "val" if name in validated else None
            for face, part, reason in _divide(people[name], whole, apply_filter, val_fraction, min_images, seed):
                result.add({"image_id": face.image_id, "identity": name, "split": part, "reason": reason})
                counts[part] += 1
                identities[part].add(name)
            progress.advance(len(people[name]))
        _check(identities, len(people), heldout_fraction, val_people_fraction, min_images)
    return {
        "rows_in": table.rows,
        "rows_out": table.rows - counts["excluded"],
        "train": counts["train"],
        "val": counts["val"],
        "heldout": counts["heldout"],
        "rejected": counts["excluded"],
        "train_identities": len(identities["train"]),
        "heldout_identities": len(identities["heldout"]),
    }


def _people(table: Table, filtered: Table) -> dict[str, list[Face]]:
    """The images of each person, in an order that depends on their ids alone."""
    judged = filtered.columns(["image_id", "kept", "reason"]).to_pydict()
    verdicts = {
        image_id: None if kept else reason
        for image_id, kept, reason in zip(judged["image_id"], judged["kept"], judged["reason"], strict=True)
    }
    faces = table.columns(["image_id", "identity", "given_split"]).to_pydict()
    people: dict[str, list[Face]] = defaultdict(list)
    for image_id, identity, given in zip(faces["image_id"], faces["identity"], faces["given_split"], strict=True):
        require(
            image_id in verdicts,
            f"{filtered.folder} says nothing of image {image_id} of {table.folder}: run filter on this table",
        )
        people[identity].append(Face(image_id, identity, given, verdicts[image_id]))
    for images in people.values():
        images.sort(key=lambda face: face.image_id)
    return people


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
    reasons = {
        face.image_id: f"filter: {face.rejected}" if face.rejected and parts[face.image_id] in leaves else None
        for face in faces
    }
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

    Where the filter's verdict counts for val, the first of val is an image that it kept, if there is one.
    """
    count = round(val_fraction * len(faces))
    if val_fraction > 0:
        count = max(1, count)
    count = min(count, len(faces) - 1)
    ranked = sorted(faces, key=lambda face: _unit_hash(seed, "image", face.image_id))
    if filtered:
        first = next((index for index, face in enumerate(ranked) if not face.rejected), 0)
        ranked.insert(0, ranked.pop(first))
    return {face.image_id: "val" if index < count else "train" for index, face in enumerate(ranked)}


def _unit_hash(seed: int, kind: str, name: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check(
    identities: dict[str, set[str]], people: int, heldout_fraction: float, val_people_fraction: float, min_images: int
) -> None:
    both = identities["heldout"] & (identities["train"] | identities["val"])
    require(not both, f"'{next(iter(both), '')}' is both trained on and held out: this is a bug, please report it")
    require(
        len(identities["train"]) >= 2,
        f"{len(identities['train'])} of {people} people are left to train on, at least 2 are needed: lower "
        f"heldout_fraction, val_people_fraction or min_images (now {heldout_fraction:g}, {val_people_fraction:g} and "
        f"{min_images})",
    )
    require(
        heldout_fraction == 0 or len(identities["heldout"]) >= 2,
        f"{len(identities['heldout'])} of {people} people are held out, verification needs at least 2: raise "
        f"heldout_fraction (now {heldout_fraction:g}), use another seed, or set it to 0 to hold out nobody",
    )
