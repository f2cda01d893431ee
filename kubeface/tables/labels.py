"""Labels in tables: columns of `groups` that hold 1 or 0 for each image; classes are identities."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.runtime.errors import KubefaceError, require
from kubeface.tables.table import Table

PERSON = "person"  # the column of `groups` that says who is in an image, where the identity does not; never a label
# What a label's text says; CelebA writes 1 and -1, its CSV 1 and 0, pandas 1.0 and 0.0 where some are missing.
VALUES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no"), 0),
}
UNKNOWN = -1


def binary(text: str) -> int | None:
    """1 or 0 as a label's text says it, UNKNOWN where it is empty, None where it is something else."""
    value = text.strip().lower()
    return VALUES.get(value) if value else UNKNOWN


def known_labels(table: Table) -> list[str]:
    """The columns of `groups` whose every value is binary (1/0, 1/-1, true/false, yes/no in any case), sorted.

    Args:
        table: of faces or aligned; read a row group at a time.
    """
    found: dict[str, bool] = {}  # whether each column has been binary so far
    for _, groups in _rows(table):
        for name, text in groups.items():
            value = binary(str(text))
            if value != UNKNOWN and found.get(name, True):
                found[name] = value is not None
    return sorted(name for name, fits in found.items() if fits and name != PERSON)


def choose_labels(table: Table, wanted: str) -> list[str]:
    """The labels to work with.

    Args:
        table: of faces or aligned.
        wanted: their names, divided by commas or spaces, in the order that is kept; empty for all that are known,
            sorted. A name that holds spaces is taken whole where it stands between commas.

    Raises:
        KubefaceError: no binary column, or a name that is none.
    """
    known = known_labels(table)
    require(
        bool(known),
        f"{table.folder} has no column of binary labels (1/0, 1/-1, true/false, yes/no): give ingest a listing with "
        "one column a label",
    )
    parts = [part.strip() for part in wanted.split(",")]
    names = [name for part in parts for name in ([part] if part in known else part.split())]
    for name in names:
        require(name in known, f"label '{name}' is no binary column of {table.folder}: it has {', '.join(known)}")
    return list(dict.fromkeys(names)) or known


def read_labels(table: Table, names: Sequence[str]) -> tuple[list[str], NDArray[np.int8]]:
    """The labels of every image.

    Args:
        table: of faces or aligned; read a row group at a time.
        names: of L labels.

    Returns:
        image ids in stored order, and N×L: 1, 0, and UNKNOWN (−1) where an image's label is empty or absent.

    Raises:
        KubefaceError: a value that is not binary.
    """
    ids: list[str] = []
    values = np.full((table.rows, len(names)), UNKNOWN, np.int8)
    for row, (image_id, groups) in enumerate(_rows(table)):
        ids.append(image_id)
        for place, name in enumerate(names):
            text = str(groups.get(name, ""))
            value = binary(text)
            if value is None:
                raise KubefaceError(
                    f"image {image_id} of {table.folder} has {name} '{text}': a label is 1/0, 1/-1, true/false, "
                    "yes/no, or empty where it is not known"
                )
            values[row, place] = value
    return ids, values


def read_people(table: Table) -> list[str | None]:
    """The person of every image in stored order, where the groups have a column `person`.

    Args:
        table: of faces or aligned; read a row group at a time.
    """
    return [str(groups[PERSON]) if groups.get(PERSON) else None for _, groups in _rows(table)]


def _rows(table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """image_id and what else is known of every image, in stored order."""
    for rows in table.row_groups(["image_id", "groups"]):
        for row in rows:
            yield row["image_id"], json.loads(row["groups"] or "{}")
