"""What the audit found, as one object, the verdicts that follow from it, and its tables."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.audit.collect import Faces
from kubeface.audit.duplicates import Duplicates, photographs, repeated, spare
from kubeface.audit.labels import People, SamePeople, Suspect
from kubeface.audit.leaks import Leak
from kubeface.audit.settings import Settings

# In the order in which they are given where several hold.
REASONS = ("unreadable", "leak", "same_photo_two_names", "looks_like_another", "far_from_identity", "duplicate")


@dataclass(frozen=True)
class Findings:
    """What was found."""

    duplicates: Duplicates
    people: People
    suspects: list[Suspect]
    alike: SamePeople
    leaks: list[Leak]


def verdicts(faces: Faces, found: Findings, settings: Settings) -> NDArray[np.int8]:
    """Why each image is left out, as a place in REASONS; −1 where it is kept.

    With a suspect photograph goes its image of low resolution.
    """
    reasons = np.full(len(faces), -1, np.int8)

    def give(reason: str, rows: NDArray[np.bool_]) -> None:
        reasons[rows & (reasons < 0)] = REASONS.index(reason)

    give("unreadable", ~faces.readable)
    if settings.on_leak != "warn":
        # With somebody go all the names that look like the same person.
        leaked = np.unique(found.alike.person[[leak.identity for leak in found.leaks]])
        give("leak", np.isin(found.alike.person, leaked)[faces.people])
    give("same_photo_two_names", found.duplicates.two_names)
    if settings.suspects == "drop":
        give("looks_like_another", found.alike.weaker[faces.people])
        far = np.zeros(len(faces), np.bool_)
        far[[suspect.row for suspect in found.suspects]] = True
        give("far_from_identity", far[faces.sharp])
    if settings.duplicates == "drop":
        give("duplicate", spare(faces, found.duplicates.cluster, reasons < 0))
    return reasons


def counted(reasons: NDArray[np.int8]) -> dict[str, int]:
    """Images left out, by reason."""
    return {name: int((reasons == place).sum()) for place, name in enumerate(REASONS) if (reasons == place).any()}


def write_findings(folder: Path, faces: Faces, found: Findings, reasons: NDArray[np.int8]) -> None:
    """Writes duplicates.csv, suspects.csv, pairs.csv and leaks.csv."""

    def kept(row: int) -> str:
        return "" if reasons[row] < 0 else REASONS[reasons[row]]

    names, cluster = faces.names, found.duplicates.cluster
    _write(
        folder / "duplicates.csv",
        ("cluster", "image_id", "identity", "source", "dropped"),
        (
            (faces.id_of(int(cluster[row])), faces.id_of(row), faces.name_of(row), faces.source_of(row), kept(row))
            for group in repeated(faces, cluster)
            for row in group.tolist()
        ),
    )
    _write(
        folder / "suspects.csv",
        ("image_id", "identity", "source", "cosine", "central_source", "near", "near_cosine", "dropped"),
        (
            (faces.id_of(suspect.row), faces.name_of(suspect.row), faces.source_of(suspect.row), suspect.cosine,
             faces.source_of(suspect.central), names[suspect.like] if suspect.like >= 0 else "",
             suspect.like_cosine, kept(suspect.row))
            for suspect in found.suspects
        ),
    )  # fmt: skip
    _write(
        folder / "pairs.csv",
        ("left", "right", "cosine", "left_images", "right_images", "left_source", "right_source", "best", "person"),
        (
            (names[pair.left], names[pair.right], pair.cosine, int(found.people.counts[pair.left]),
             int(found.people.counts[pair.right]), *map(faces.source_of, pair.rows), pair.best,
             names[found.alike.person[pair.left]])
            for pair in found.alike.pairs
        ),
    )  # fmt: skip
    _write(
        folder / "leaks.csv",
        ("identity", "evaluation_set", "person", "cosine", "source", "file", "best", "same_photograph"),
        (
            (names[leak.identity], leak.uri, leak.name, leak.cosine, faces.source_of(leak.row), leak.file, leak.best,
             str(leak.same_photograph).lower())
            for leak in found.leaks
        ),
    )  # fmt: skip


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def class_figures(faces: Faces) -> dict[str, Any]:
    """How the images are spread over the identities.

    gini: 0 where all have as many, towards 1 where one has nearly all; effective: the number of identities with equally
    many images that would be as diverse (exponential of the entropy).
    """
    counts = np.sort(np.bincount(faces.people, minlength=len(faces.names))).astype(np.float64)
    size, shares = len(counts), counts / counts.sum()
    gini = float((2 * np.arange(1, size + 1) - size - 1) @ counts / (size * counts.sum()))
    return {
        "min": int(counts[0]),
        "median": float(np.median(counts)),
        "max": int(counts[-1]),
        "gini": round(gini, 4),
        "effective": round(float(np.exp(-(shares * np.log(shares)).sum())), 2),
    }


def figures(faces: Faces, found: Findings, reasons: NDArray[np.int8]) -> dict[str, int]:
    """Numbers of what was found."""
    sizes = Counter(photographs(faces, group) for group in repeated(faces, found.duplicates.cluster))
    kept = reasons < 0
    return {
        "rows_in": len(faces),
        "rows_out": int(kept.sum()),
        "rejected": int((~kept).sum()),
        "identities": len(faces.names),
        "identities_out": len(np.unique(faces.people[kept])),
        "duplicate_clusters": sizes.total(),
        "duplicates": sum((size - 1) * count for size, count in sizes.items()),
        "same_photo_two_names": int(found.duplicates.two_names.sum()),
        "suspects": len(found.suspects),
        "alike_pairs": found.alike.count,
        "leaks": len(found.leaks),
    }
