"""Findings of the audit, and what is derived from them: verdicts, counts, CSV files."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubeface.audit.duplicates import Duplicates, count_photographs, droppable, repeated_photographs
from kubeface.audit.groups import Flags
from kubeface.audit.images import AuditedImages
from kubeface.audit.label_errors import Centres, Lookalikes, Suspect
from kubeface.audit.leaks import Leak
from kubeface.audit.options import AuditOptions
from kubeface.records.findings import AuditCounts, FindingsRecord, IdentitySizes
from kubeface.storage.folders import write_csv
from kubeface.tables.table import TableWriter

# In order of precedence where several hold.
REASONS = ("unreadable", "leak", "same_photo_two_names", "looks_like_another", "far_from_identity", "duplicate")
KEPT = -1  # in place of an index into REASONS
Verdicts = NDArray[np.int8]  # by row an index into REASONS, or KEPT


@dataclass(frozen=True)
class Findings:
    """Results of all checks."""

    duplicates: Duplicates
    centres: Centres
    suspects: list[Suspect]
    lookalikes: Lookalikes
    leaks: list[Leak]


def decide(images: AuditedImages, findings: Findings, options: AuditOptions) -> Verdicts:
    """Decides which images are left out, and why; a suspect photograph takes its low-resolution image with it."""
    verdicts = np.full(len(images), KEPT, np.int8)

    def leave_out(reason: str, rows: Flags) -> None:
        verdicts[rows & (verdicts == KEPT)] = REASONS.index(reason)

    leave_out("unreadable", ~images.readable)
    if options.on_leak != "warn":
        # A leaked person takes all identities with it that look like the same person.
        leaked = np.unique(findings.lookalikes.person[[leak.identity for leak in findings.leaks]])
        leave_out("leak", np.isin(findings.lookalikes.person, leaked)[images.identity])
    leave_out("same_photo_two_names", findings.duplicates.two_names)
    if options.suspects == "drop":
        leave_out("looks_like_another", findings.lookalikes.weaker[images.identity])
        suspects = np.zeros(len(images), np.bool_)
        suspects[[suspect.row for suspect in findings.suspects]] = True
        leave_out("far_from_identity", suspects[images.sharp])
    if options.duplicates == "drop":
        leave_out("duplicate", droppable(images, findings.duplicates.cluster, verdicts == KEPT))
    return verdicts


def write_findings(
    out: Path, images: AuditedImages, findings: Findings, verdicts: Verdicts, record: FindingsRecord
) -> None:
    """Writes the audit table, the tables of findings and data.json."""
    cluster, person = findings.duplicates.cluster, findings.lookalikes.person
    with TableWriter(out, "audit", record.producer, record.settings) as table:
        for row, stored_id in enumerate(images.ids):
            image_id, identity = str(stored_id), images.name_of(row)
            reason = None if verdicts[row] == KEPT else REASONS[verdicts[row]]
            table.add(
                {
                    "image_id": image_id,
                    "identity": identity,
                    "kept": reason is None,
                    "reason": reason,
                    "cluster": image_id if cluster[row] == row else images.id_of(cluster[row]),
                    "person": images.names[person[images.identity[row]]],
                }
            )
            if reason:
                table.reject(images.source_of(row), reason, f"identity {identity}")
        _write_csvs(table.folder, images, findings, verdicts)
        record.write(table.folder / "data.json")


def _write_csvs(folder: Path, images: AuditedImages, findings: Findings, verdicts: Verdicts) -> None:
    """Writes duplicates.csv, suspects.csv, pairs.csv and leaks.csv."""

    def verdict(row: int) -> str:
        return "" if verdicts[row] == KEPT else REASONS[verdicts[row]]

    names, cluster = images.names, findings.duplicates.cluster
    write_csv(
        folder / "duplicates.csv",
        ("cluster", "image_id", "identity", "source", "dropped"),
        (
            (images.id_of(cluster[row]), images.id_of(row), images.name_of(row), images.source_of(row), verdict(row))
            for group in repeated_photographs(images, cluster)
            for row in group.tolist()
        ),
    )
    write_csv(
        folder / "suspects.csv",
        ("image_id", "identity", "source", "cosine", "central_source", "near", "near_cosine", "dropped"),
        (
            (images.id_of(suspect.row), images.name_of(suspect.row), images.source_of(suspect.row), suspect.cosine,
             images.source_of(suspect.central), names[suspect.near] if suspect.near >= 0 else "",
             suspect.near_cosine, verdict(suspect.row))
            for suspect in findings.suspects
        ),
    )  # fmt: skip
    write_csv(
        folder / "pairs.csv",
        ("left", "right", "cosine", "left_images", "right_images", "left_source", "right_source", "best", "person"),
        (
            (names[pair.left], names[pair.right], pair.cosine, int(findings.centres.counts[pair.left]),
             int(findings.centres.counts[pair.right]), *map(images.source_of, pair.rows), pair.best,
             names[findings.lookalikes.person[pair.left]])
            for pair in findings.lookalikes.pairs
        ),
    )  # fmt: skip
    write_csv(
        folder / "leaks.csv",
        ("identity", "evaluation_set", "person", "cosine", "source", "file", "best", "same_photograph"),
        (
            (names[leak.identity], leak.uri, leak.name, leak.cosine, images.source_of(leak.row), leak.file, leak.best,
             str(leak.same_photograph).lower())
            for leak in findings.leaks
        ),
    )  # fmt: skip


def identity_sizes(images: AuditedImages) -> IdentitySizes:
    """How the images are spread over the identities."""
    counts = np.sort(np.bincount(images.identity, minlength=len(images.names))).astype(np.float64)
    size, shares = len(counts), counts / counts.sum()
    gini = float((2 * np.arange(1, size + 1) - size - 1) @ counts / (size * counts.sum()))
    return IdentitySizes(
        min=int(counts[0]),
        median=float(np.median(counts)),
        max=int(counts[-1]),
        gini=round(gini, 4),
        effective=round(float(np.exp(-(shares * np.log(shares)).sum())), 2),
    )


def count_findings(images: AuditedImages, findings: Findings, verdicts: Verdicts) -> AuditCounts:
    """Counts the findings."""
    sizes = Counter(
        count_photographs(images, group) for group in repeated_photographs(images, findings.duplicates.cluster)
    )
    kept = verdicts == KEPT
    by_reason = np.bincount(verdicts[~kept], minlength=len(REASONS)).tolist()
    rejected = images.filter_reason.filter(~images.filter_kept).value_counts().to_pylist()
    return AuditCounts(
        rows_in=len(images),
        rows_out=int(kept.sum()),
        rejected=int((~kept).sum()),
        identities=len(images.names),
        identities_out=len(np.unique(images.identity[kept])),
        duplicate_clusters=sizes.total(),
        duplicates=sum((size - 1) * count for size, count in sizes.items()),
        same_photo_two_names=int(findings.duplicates.two_names.sum()),
        suspects=len(findings.suspects),
        alike_pairs=findings.lookalikes.count,
        leaks=len(findings.leaks),
        reasons={reason: count for reason, count in zip(REASONS, by_reason, strict=True) if count},
        filter_reasons=dict(sorted((str(entry["values"]), entry["counts"]) for entry in rejected)),
    )
