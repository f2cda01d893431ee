"""Small tables without pictures, to divide."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kubeface.split.options import SplitOptions
from kubeface.split.step import SplitResult, split
from kubeface.tables.table import TableWriter
from tests.support.tables import DETECTED, EMPTY_IMAGE, JUDGED, rows_of

# Of each image, by identity: the part in the source's own division, and the filter's reason.
People = dict[str, list[tuple[str | None, str | None]]]
# Of each image, by identity: its cluster, as the number of an image of the identity or an image_id, and the audit's
# reason.
Findings = dict[str, list[tuple[int | str, str | None]]]
Division = dict[str, tuple[str, str | None]]  # part and reason by image_id


def plain(counts: Mapping[str, int]) -> People:
    """Identities with so many images, of which nothing is known."""
    return {name: [(None, None)] * count for name, count in counts.items()}


def tables(
    root: Path, people: People, groups: Mapping[str, str] | None = None, sources: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Writes an aligned and a filter table of people, an image_id being identity/number; groups (JSON) and sources are
    by image_id, the source is the image_id with .png where there is none."""
    with (
        TableWriter(root / "aligned", "aligned", "test 1", {}) as aligned,
        TableWriter(root / "filter", "filter", "test 1", {}) as filtered,
    ):
        for name, images in people.items():
            for number, (given_split, reason) in enumerate(images):
                image_id = f"{name}/{number}"
                known = {"image_id": image_id, "identity": name, "given_split": given_split}
                known["source"] = (sources or {}).get(image_id, f"{image_id}.png")
                aligned.add({**known, "groups": (groups or {}).get(image_id), **EMPTY_IMAGE, **DETECTED})
                filtered.add({**JUDGED, "image_id": image_id, "kept": reason is None, "reason": reason})
    return root / "aligned", root / "filter"


def audit_table(root: Path, findings: Findings, same_person: Mapping[str, str]) -> Path:
    """Writes an audit table; `same_person` names the person of an identity that looks like another."""
    with TableWriter(root / "audit", "audit", "test 1", {}) as audited:
        for name, images in findings.items():
            for number, (cluster, reason) in enumerate(images):
                audited.add(
                    {
                        "image_id": f"{name}/{number}",
                        "identity": name,
                        "kept": reason is None,
                        "reason": reason,
                        "cluster": cluster if isinstance(cluster, str) else f"{name}/{cluster}",
                        "person": same_person.get(name, name),
                    }
                )
    return root / "audit"


def divided(
    people: People,
    findings: Findings | None = None,
    same_person: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    **options: Any,
) -> Division:
    """The division of people, with an audit where there are findings; its figures fit its rows."""
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        audited = None if findings is None else audit_table(root, findings, same_person or {})
        settings = SplitOptions.model_validate(options)
        figures = split(*tables(root, people, groups, sources), root / "split", audited, settings)
        rows = rows_of(root / "split")
    counts = Counter(row["split"] for row in rows)
    names = {part: {row["identity"] for row in rows if row["split"] == part} for part in counts}
    assert figures == SplitResult(
        rows_in=sum(map(len, people.values())),
        rows_out=len(rows) - counts["excluded"],
        train=counts["train"],
        val=counts["val"],
        heldout=counts["heldout"],
        rejected=counts["excluded"],
        train_identities=len(names.get("train", ())),
        heldout_identities=len(names.get("heldout", ())),
    )
    assert all(row["image_id"].startswith(f"{row['identity']}/") for row in rows)
    assert all((row["split"] == "excluded") == (row["reason"] is not None) for row in rows)
    found = {row["image_id"]: (row["split"], row["reason"]) for row in rows}
    assert len(found) == len(rows)
    return found
