"""Small tables without pictures, to divide."""

from collections.abc import Mapping
from pathlib import Path

from kubeface.tables.table import TableWriter
from tests.support.tables import DETECTED, EMPTY_IMAGE, JUDGED

# Of each image, by identity: the part in the source's own division, and the filter's reason.
People = dict[str, list[tuple[str | None, str | None]]]
# Of each image, by identity: its cluster, as the number of an image of the identity or an image_id, and the audit's
# reason.
Findings = dict[str, list[tuple[int | str, str | None]]]


def plain(counts: Mapping[str, int]) -> People:
    """Identities with so many images, of which nothing is known."""
    return {name: [(None, None)] * count for name, count in counts.items()}


def tables(
    root: Path, people: People, groups: Mapping[str, str] | None = None, sources: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Writes an aligned and a filter table.

    Args:
        root: folder of the two.
        people: images of each identity; an image_id is identity/number.
        groups: JSON by image_id.
        sources: by image_id, the image_id with .png where there is none.
    """
    with (
        TableWriter(root / "aligned", "aligned", "test 1", {}) as aligned,
        TableWriter(root / "filter", "filter", "test 1", {}) as filtered,
    ):
        for name, images in people.items():
            for number, (given_split, reason) in enumerate(images):
                image_id = f"{name}/{number}"
                aligned.add(
                    {
                        "image_id": image_id,
                        "identity": name,
                        "source": (sources or {}).get(image_id, f"{image_id}.png"),
                        "given_split": given_split,
                        "groups": (groups or {}).get(image_id),
                        **EMPTY_IMAGE,
                        **DETECTED,
                    }
                )
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
