"""Binary labels of images: entries of the column `groups`; the label of a class is the identity."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from kubeface.runtime.errors import KubefaceError, require
from kubeface.tables.table import Table

PERSON = "person"  # entry of `groups` with the person, where the identity is something else; never a label
# CelebA writes 1 and -1, its CSV 1 and 0, pandas 1.0 and 0.0 where some are missing.
VALUES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no"), 0),
}
UNKNOWN = -1


def binary(text: str) -> int | None:
    """Parses a label: 1 or 0, UNKNOWN for an empty text, None for anything else."""
    value = text.strip().lower()
    return VALUES.get(value) if value else UNKNOWN


def known_labels(table: Table) -> list[str]:
    """The entries of `groups` that are binary in every image (1/0, 1/-1, true/false, yes/no in any case), sorted."""
    is_binary: dict[str, bool] = {}  # whether each entry has been binary so far
    for _, groups in _rows(table):
        for name, text in groups.items():
            value = binary(str(text))
            if value != UNKNOWN and is_binary.get(name, True):
                is_binary[name] = value is not None
    return sorted(name for name, fits in is_binary.items() if fits and name != PERSON)


def choose_labels(table: Table, wanted: str) -> list[str]:
    """Chooses labels of a table by name.

    Args:
        table: of faces or aligned.
        wanted: names separated by commas or spaces, in the order to keep; between commas a name may hold spaces. Empty
            for all binary columns, sorted.

    Raises:
        KubefaceError: the table has no binary column, or a name is not one.
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
    """The labels of every image: N image ids in stored order, and N×L int8 for L names.

    A value is 1, 0, or UNKNOWN (−1) where a label is empty or absent.

    Raises:
        KubefaceError: a value that is not binary.
    """
    ids: list[str] = []
    values = np.full((table.rows, len(names)), UNKNOWN, np.int8)
    for row, (image_id, groups) in enumerate(_rows(table)):
        ids.append(image_id)
        for column, name in enumerate(names):
            text = str(groups.get(name, ""))
            value = binary(text)
            if value is None:
                raise KubefaceError(
                    f"image {image_id} of {table.folder} has {name} '{text}': a label is 1/0, 1/-1, true/false, "
                    "yes/no, or empty where it is not known"
                )
            values[row, column] = value
    return ids, values


def read_people(table: Table) -> list[str | None]:
    """The person of every image in stored order, None where its groups name none."""
    return [str(groups[PERSON]) if groups.get(PERSON) else None for _, groups in _rows(table)]


def _rows(table: Table) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Yields the image_id and the groups of every image in stored order."""
    for rows in table.row_groups(["image_id", "groups"]):
        for row in rows:
            yield row["image_id"], json.loads(row["groups"] or "{}")
